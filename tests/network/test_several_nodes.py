"""A cluster of real hosts on one machine: what crosses a network, and what fails on it.

The faults take half an hour, so they run when they are asked for, one or all of them:

    RAYCLF_NETWORK_FAULTS=1 python -m pytest tests/network [-k cut-off]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
from faults import FAULTS
from hosts import unavailable
from lab import Lab
from ray_hosts import Cluster
from s3 import NoServer
from work import LONG, QUICK, Work, as_client, hosts_of, train

from rayclf.cluster import cores

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The network with its store; the folders of Ray's sockets must have short names."""
    folder = tmp_path_factory.mktemp("lab")
    try:
        made = Lab(folder)
    except NoServer as error:
        pytest.skip(str(error))
    with made:
        yield made


def check_cores() -> None:
    """Skip where Ray's processes, of which three nodes have thirty, would not find each other in their time."""
    if cores() < 2:
        pytest.skip("needs two cores: run pytest tests/network by itself")


def test_prepare_train_on_two_nodes_and_score(lab: Lab) -> None:
    check_cores()
    work = Work(lab, QUICK)
    work.lay_out()
    with Cluster(lab) as cluster:
        work.prepare(cluster)
        run = train(cluster, work.training(2))
        assert sorted(hosts_of(run)) == ["worker-1", "worker-2"]
        assert [line for line in run.lines if line["kind"] == "resumed"] == []
        work.publish(run)
        work.score_undisturbed(cluster)
        with as_client(lab):
            command = [sys.executable, "-m", "rayclf.cli.main", "score", "--verify", work.place("undisturbed")]
            told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr
        assert f"{QUICK.corpus:,}" in told.stdout or str(QUICK.corpus) in told.stdout


@pytest.fixture(scope="module")
def work(lab: Lab) -> Work:
    """Longer work, done once without a fault."""
    check_cores()
    made = Work(lab, LONG)
    made.undisturbed()
    return made


@pytest.mark.skipif("RAYCLF_NETWORK_FAULTS" not in os.environ, reason="set RAYCLF_NETWORK_FAULTS=1: takes half an hour")
@pytest.mark.parametrize("name", FAULTS)
def test_fault(work: Work, name: str) -> None:
    if name == "head-restarted" and shutil.which("redis-server") is None:
        pytest.skip("needs redis-server, of the package of that name")
    outcome = FAULTS[name](work)
    assert outcome.whole, outcome
    assert not outcome.errors, outcome
    assert outcome.resumed or name in ("slow-link", "cut-off", "node-joins"), outcome
    assert "scoring used it" in outcome.notes or name != "node-joins", outcome
