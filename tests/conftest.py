"""Fixtures of all tests. What tests import by name is in :mod:`tiny`, since other folders have conftests too."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # some tests fork

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from s3 import NoServer, S3Server
from tiny import DECODERS, ENCODERS, SPACES, TEXTS, Made, make_classifier, write_backbone
from xdist.scheduler import LoadFileScheduling

from rayclf.labels import LabelSpace, ProblemType

torch.set_num_threads(1)

LONGEST = ("test_training_faults", "test_deploy", "test_tune_trials")  # minutes each

# A change is judged by the same examples each time: a failure is its own. New ones: pytest --hypothesis-profile=search
settings.register_profile("same", derandomize=True)
settings.register_profile("search", max_examples=1000, deadline=None)
settings.load_profile("same")


def pytest_configure() -> None:
    """Keep each of the processes that share the tests (``pytest -n``) on one core, with all that it starts:
    two trainings that take two threads each on two cores are ten times slower than one after the other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """Tests of one file go to one process, since they share what takes long to make: runs, endpoints, a Ray.

    ``--dist loadfile`` would begin with the files of most tests and end with one process alone at the longest.
    """
    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, those that take long go first, or one process is alone at the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.stem not in LONGEST)
        items.sort(key=lambda item: item.path.parent.name not in ("docs", "integration", "network"))


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A factory: the folder of the tiny backbone of a type, made once. Tests must not write into it."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = write_backbone(tmp_path_factory.mktemp("backbone") / name, name)
        return made[name]

    return of


@pytest.fixture(scope="session", params=[*DECODERS, *ENCODERS])
def architecture(request: pytest.FixtureRequest) -> str:
    """Each type of backbone."""
    return str(request.param)


@pytest.fixture(params=["full", "lora"])
def tuning(request: pytest.FixtureRequest) -> str:
    """Each way of tuning."""
    return str(request.param)


@pytest.fixture(params=list(ProblemType), ids=str)
def kind(request: pytest.FixtureRequest) -> ProblemType:
    """Each problem type."""
    return ProblemType(request.param)


@pytest.fixture(scope="session")
def make(backbone: Callable[[str], Path]) -> Callable[..., Made]:
    """A factory: ``make("llama", tuning="lora", kind=…)`` is a classifier in parts with moved weights."""

    def of(name: str, **settings: Any) -> Made:
        return make_classifier(backbone(name), **settings)

    return of


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of several lengths."""
    return list(TEXTS)


@pytest.fixture(scope="session")
def spaces() -> dict[ProblemType, LabelSpace]:
    """A label space of each problem type."""
    return dict(SPACES)


@pytest.fixture
def write_tiny(tmp_path: Path) -> Callable[..., Path]:
    """A factory: ``write_tiny(name, seed=1, …)`` is the folder of a new backbone that a test may change."""
    numbers = iter(range(100))

    def of(name: str, **settings: Any) -> Path:
        return write_backbone(tmp_path / f"backbone-{next(numbers)}", name, **settings)

    return of


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """A real S3 server; skips where there is no network to install it from."""
    try:
        server = S3Server()
    except NoServer as error:
        pytest.skip(str(error))
    with server:
        yield server
