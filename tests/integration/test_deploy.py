"""Deployments on a cluster: versions in turn, asleep and awake, dying replicas, closing time, a cluster that forgot."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve
from tiny import Made

import rayclf
from rayclf.demo.lessons import free_port
from rayclf.serving import deployments
from rayclf.serving.deployments import Deployment

BODY = {"inputs": ["A cell!"]}


@pytest.fixture(scope="module")
def artifacts(make: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two classifiers."""
    folder = tmp_path_factory.mktemp("artifacts")
    return [make("bert", seed=seed).save(folder / str(seed)) for seed in (1, 2)]


@pytest.fixture(scope="module")
def deployed(cluster: None, artifacts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The first of them, as version 1 of a deployment that sleeps after some seconds."""
    serve.shutdown()  # other tests left it on another port
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCLF_HOME", str(tmp_path_factory.mktemp("home")))
        yield deployments.deploy("tickets", artifacts[0], port=free_port(), replicas=(0, 1), inactive_timeout_s=6)
        serve.shutdown()


def ask(deployed: Deployment) -> httpx.Response:
    return httpx.post(f"{deployed.url}/v1/classify", json=BODY, timeout=300)


def running(deployed: Deployment) -> int:
    (version,) = deployments.status(deployed.name).versions
    return version.replicas.get("RUNNING", 0)


def wait(condition: Callable[[], bool]) -> None:
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError("it never came to that")


class Load:
    """Requests one after the other, in a thread; how many ended how, by which version."""

    def __init__(self, deployed: Deployment) -> None:
        self.ended: Counter[tuple[int, str | None]] = Counter()
        self._deployed, self._stop = deployed, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        with httpx.Client(base_url=self._deployed.url, timeout=300) as client:
            while not self._stop.is_set():
                answer = client.post("/v1/classify", json=BODY)
                self.ended[answer.status_code, answer.headers.get("x-model-version")] += 1
                time.sleep(0.1)  # the cores are for those that start

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def test_a_version_is_tried_out_promoted_and_rolled_back_without_a_request_lost(
    deployed: Deployment, artifacts: list[Path]
) -> None:
    with Load(deployed) as load:
        trial = deployments.deploy("tickets", artifacts[1], traffic=50)
        assert {version.number: version.share for version in trial.versions} == {1: 50, 2: 50}
        wait(lambda: load.ended[200, "2"] > 4)
        deployments.promote("tickets")
        assert [version.number for version in deployments.status("tickets").versions] == [2]
        before = load.ended[200, "1"]
        wait(lambda: load.ended[200, "2"] > 20)
        assert load.ended[200, "1"] <= before + 1  # the one that was under way
        deployments.rollback("tickets")
        wait(lambda: load.ended[200, "1"] > before + 4)
    assert set(load.ended) == {(200, "1"), (200, "2")}


def test_it_sleeps_and_a_request_wakes_it(deployed: Deployment) -> None:
    wait(lambda: not running(deployed))
    assert ask(deployed).status_code == 200


def test_a_request_that_is_lost_with_its_ingress_is_refused_so_that_clients_send_it_again(deployed: Deployment) -> None:
    """It waits for a replica to wake when the process that has it dies."""
    wait(lambda: not running(deployed))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, deployed)
        time.sleep(1)
        (ingress,) = replicas("tickets#Ingress")
        ray.kill(ingress)
        answer = asked.result()
    assert (answer.status_code, answer.json()["error"]["code"], answer.headers["retry-after"]) == (503, "lost", "1")
    assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
    with rayclf.Client(deployed.url, timeout=300) as client:
        assert client.classify(BODY["inputs"])


def test_a_replica_that_is_killed_loses_no_request(deployed: Deployment) -> None:
    with Load(deployed) as load:
        wait(lambda: load.ended.total() > 2)
        for replica in replicas("tickets#Models"):
            ray.kill(replica)
        before = load.ended.total()
        wait(lambda: load.ended.total() > before + 2)
    assert {status for status, _ in load.ended} == {200}


def pid_of(actor: str) -> int:
    """The process of one of Serve's own actors."""
    handle = ray.get_actor(actor, namespace="serve")
    return int(ray.get(handle.__ray_call__.remote(lambda self: os.getpid()), timeout=120))


def test_the_client_waits_for_a_proxy_that_was_killed(deployed: Deployment) -> None:
    """Serve finds out after three looks; nobody listens until then."""
    with rayclf.Client(deployed.url, timeout=300) as client:
        assert client.classify(BODY["inputs"])
        os.kill(pid_of(f"SERVE_PROXY_ACTOR-{ray.nodes()[0]['NodeID']}"), signal.SIGKILL)
        assert client.classify(BODY["inputs"])


def test_a_controller_that_is_killed_forgets_nothing(deployed: Deployment) -> None:
    """Requests are answered meanwhile, and afterwards it still puts the deployment to sleep and wakes it."""
    before = deployments.status("tickets")

    old = pid_of("SERVE_CONTROLLER_ACTOR")
    with Load(deployed) as load:
        wait(lambda: load.ended.total() > 2)
        os.kill(old, signal.SIGKILL)
        seen = load.ended.total()
        wait(lambda: load.ended.total() > seen + 2)
    assert {status for status, _ in load.ended} == {200}
    assert pid_of("SERVE_CONTROLLER_ACTOR") != old
    wait(lambda: deployments.status("tickets").status == "RUNNING")
    after = deployments.status("tickets")
    assert [v.number for v in after.versions] == [v.number for v in before.versions]
    wait(lambda: not running(deployed))
    assert ask(deployed).status_code == 200


def test_a_cluster_that_forgot_is_brought_back(deployed: Deployment) -> None:
    serve.delete("tickets")
    assert deployments.status("tickets").status == "NOT_STARTED"
    (restored,) = deployments.restore()
    assert restored.status == "RUNNING"
    assert ask(deployed).headers["x-model-version"] == "1"


def test_outside_of_its_schedule_it_says_when_it_opens_and_has_no_replicas(deployed: Deployment) -> None:
    opens = time.gmtime(time.time() + 2 * 24 * 3600)  # the day after tomorrow, whatever the time is
    deployments.deploy("tickets", schedule=f"{time.strftime('%a', opens)} 08:00-20:00 UTC")
    answer = ask(deployed)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "closed")
    assert "08:00" in answer.json()["error"]["message"]
    assert 3600 < int(answer.headers["retry-after"]) < 3 * 24 * 3600
    wait(lambda: not running(deployed))
    assert httpx.get(f"{deployed.url}/health").status_code == 200


def test_it_goes_and_leaves_nothing(deployed: Deployment) -> None:
    deployments.delete("tickets")
    assert deployments.list_deployments() == []
    assert "tickets" not in serve.status().applications


def test_requests_for_a_model_go_to_the_replica_that_has_it(
    deployed: Deployment, artifacts: list[Path], tmp_path: Path
) -> None:
    """Two replicas with room for two models each, four models: none is loaded again, however often it is asked for."""
    names = ("a", "b", "c", "d")
    for name in names:
        shutil.copytree(artifacts[0], tmp_path / "models" / name)
    many = deployments.deploy("many", tmp_path / "models", replicas=(2, 2), max_models=2)
    # Where a node dies that has one of them, the other one takes requests.
    assert serve.status().applications["many"].deployments["Ingress"].replica_states == {"RUNNING": 2}

    def ask_for(name: str) -> None:
        answer = httpx.post(f"{many.url}/v1/classify", json=BODY | {"model": name}, timeout=60)
        assert answer.json()["model"] == name

    for name in names:
        ask_for(name)
        time.sleep(1)  # in which the replica tells what it has
    before = loads()
    for _ in range(10):
        for name in names:
            ask_for(name)
    assert loads() == before
    deployments.delete("many")


def loads() -> int:
    """How many models the replicas of ``many`` have loaded."""

    def count(replica: Any) -> int:
        loaded: int = replica._replica_impl._user_callable_wrapper._callable.local.host.counters.loads
        return loaded

    told = [replica.__ray_call__.remote(count) for replica in replicas("many#Models")]
    return sum(ray.get(told, timeout=120))


def replicas(kind: str) -> list[Any]:
    """The actors of one of Serve's deployments, ``APPLICATION#DEPLOYMENT``."""
    actors = [each for each in ray.util.list_named_actors(all_namespaces=True) if kind in each["name"]]
    return [ray.get_actor(each["name"], namespace=each["namespace"]) for each in actors]
