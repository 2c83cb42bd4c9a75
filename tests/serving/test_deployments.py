"""What deploy refuses, before it looks for a cluster; the rest is in integration/test_deploy.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from hypothesis import given
from hypothesis import strategies as st
from ray.serve.schema import ServeDeploySchema
from tiny import Made

from rayclf.errors import ArtifactError, ConfigError, ResourceError, UserError
from rayclf.serving import deployments, record, rollout
from rayclf.serving.app import from_config
from rayclf.serving.record import Options, Record
from rayclf.serving.settings import Settings

JOBS = Path(__file__).parents[2] / "jobs"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYCLF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"traffic": 0}, "--traffic 0"),
        ({"traffic": 10}, "no version yet to share the requests"),
        ({"replicas": (3, 1)}, "--replicas 3,1"),
        ({"replicas": (0, 0)}, "--replicas 0,0"),
        ({"schedule": "sometimes"}, "--schedule"),
        ({"precision": "fp8"}, "--precision"),
        ({"inactive_timeout_s": 0}, "--inactive-timeout"),
        ({"gpus_per_replica": -1}, "--gpus-per-replica"),
        ({"limits": {"max_input": 1}}, "did you mean 'max_inputs'"),
        ({"route": "tickets"}, "--route tickets"),
        ({"colour": "red"}, "--colour"),
        ({"keys": True}, "rayclf keys create"),
        ({"host": "0.0.0.0"}, "rayclf keys create"),
    ],
    ids=str,
)
def test_mistakes_are_one_line_that_names_the_flag(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        deployments.deploy("tickets", tmp_path, **options)
    assert "\n" not in str(caught.value)


def test_an_artifact_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ARTIFACT: missing"):
        deployments.deploy("tickets")
    with pytest.raises(ArtifactError, match="no such folder"):
        deployments.deploy("tickets", tmp_path / "none")


def test_without_a_cluster_it_says_how_to_start_one(
    make: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_cluster(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", no_cluster)
    with pytest.raises(ResourceError, match="ray start --head"):
        deployments.deploy("tickets", make("bert").save(tmp_path / "artifact"))


@pytest.mark.parametrize("call", [deployments.status, deployments.promote, deployments.rollback, deployments.delete])
def test_an_unknown_name_is_told_with_the_known_ones(call: Callable[[str], Any]) -> None:
    with pytest.raises(ConfigError, match="none yet"):
        call("tickets")
    blank = Record(name="mails", route="/mails", host="127.0.0.1", port=8000)
    record.write(blank.with_version(Options(artifact="/x"), 100, "/x"))
    with pytest.raises(ConfigError, match="there are mails"):
        call("tickets")


def test_no_deployments_need_no_cluster() -> None:
    assert deployments.list_deployments() == []
    assert deployments.restore() == []


def test_the_config_file_is_what_serve_and_this_application_take() -> None:
    schema = ServeDeploySchema.model_validate(yaml.safe_load((JOBS / "serve.yaml").read_text()))
    (told,) = schema.applications
    assert told.import_path == "rayclf.serving.app:from_config"
    assert from_config(dict(told.args)) is not None
    settings = Settings.from_plain(told.args)
    assert settings.replicas == (0, 4)
    assert Settings.from_plain(settings.plain()) == settings


def test_the_job_file_holds_arguments_of_deploy() -> None:
    told = yaml.safe_load((JOBS / "deploy.yaml").read_text())
    del told["name"], told["traffic"]
    assert Options.model_validate(told).replicas == (0, 4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"models": {"a": "/a"}, "replica": 1}, "args.replica: unknown"),
        ({}, "args.models: missing"),
        ({"models": {"a": "/a"}, "replicas": [2, 1]}, "args.replicas"),
        ({"models": {"a": "/a"}, "replicas": [1, 2, 3]}, "args.replicas"),
    ],
    ids=str,
)
def test_mistakes_in_a_config_file_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_config(args)


def test_a_new_version_gets_requests_only_when_it_is_there_and_the_old_one_goes_only_after() -> None:
    steps = rollout.steps
    assert steps({}, {1: 100}) == [{1: 100}]
    assert steps({1: 100}, {2: 100}) == [{1: 100, 2: 0}, {2: 100, 1: 0}, {2: 100}]
    assert steps({1: 100}, {1: 90, 2: 10}) == [{1: 100, 2: 0}, {1: 90, 2: 10}]
    assert steps({1: 90, 2: 10}, {2: 100}) == [{2: 100, 1: 0}, {2: 100}]
    assert steps({1: 90, 2: 10}, {1: 100}) == [{1: 100, 2: 0}, {1: 100}]
    assert steps({1: 100}, {1: 100}) == []


@given(*[st.dictionaries(st.integers(1, 4), st.sampled_from([50.0, 100.0]), min_size=1, max_size=2)] * 2)
def test_on_the_way_nothing_goes_that_gets_requests(there: dict[int, float], wanted: dict[int, float]) -> None:
    before = there
    for after in rollout.steps(there, wanted):
        assert not {number for number, share in before.items() if share} - set(after)  # none that has requests goes
        assert not {number for number, share in after.items() if share} - set(
            before
        )  # none is asked before it is there
        before = after
    assert before == wanted


def test_a_version_that_does_not_start_leaves_the_one_before(
    make: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make("bert").save(tmp_path / "artifact")
    ran: list[dict[int, float]] = []

    def run(told: Record, shares: dict[int, float]) -> None:
        ran.append(dict(shares))
        if 2 in shares:
            raise ArtifactError("the weights are damaged")

    blank = Record(name="tickets", route="/tickets", host="127.0.0.1", port=8000)
    first = blank.with_version(Options(artifact=str(artifact), schedule="10:00-11:00 UTC"), 100, str(artifact))
    record.write(first)
    monkeypatch.setattr(rollout, "run", run)
    monkeypatch.setattr(rollout, "application", lambda name: object())
    monkeypatch.setattr(rollout, "connect_cluster", lambda: None)
    monkeypatch.setattr(rollout, "start_serve", lambda host, port: ("127.0.0.1", 8000))
    monkeypatch.setattr(deployments, "_with_gpus", lambda options: options)
    monkeypatch.setattr(deployments, "_check_route", lambda name, route: None)
    with pytest.raises(ArtifactError, match="damaged"):
        deployments.deploy("tickets", replicas=(1, 2))
    assert ran == [{1: 100, 2: 0}, {1: 100}]
    assert record.read("tickets") == first
