"""Runs the trials of a search with Ray Tune, and stops the poor ones early with ASHA (arXiv:1810.05934)."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from rayclf.cluster import native_stderr_to
from rayclf.training.search.record import Board, Trial
from rayclf.training.search.trainable import Task, TrainingTrial, named

_QUIET = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # result files and TensorBoard: the run folders have it all
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one draws a table even when it is told to be silent
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class _Halving(ASHAScheduler):  # type: ignore[misc]
    """ASHA that never stops the first trial, the default settings: no search ends worse than none.

    Nor does it stop one that has made all its steps, which may be the best by an earlier checkpoint.
    """

    def __init__(self, stopped: set[int], **settings: Any) -> None:
        super().__init__(**settings)
        self._stopped = stopped

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = str(super().on_trial_result(tune_controller, trial, result))
        number = trial.config["number"]
        if decision != TrialScheduler.STOP:
            return decision
        if number == 0 or result["epochs_left"] <= 0:
            return str(TrialScheduler.CONTINUE)
        self._stopped.add(number)
        return decision


class _Until(tune.Stopper):  # type: ignore[misc]
    """Ends the search when its time is over or it was interrupted."""

    def __init__(self, seconds: float | None) -> None:
        self.started = time.monotonic()
        self.seconds = seconds
        self.interrupted = False

    def __call__(self, trial_id: str, result: Mapping[str, Any]) -> bool:
        """Never ends a single trial."""
        return False

    def stop_all(self) -> bool:
        """Whether to end now."""
        return self.interrupted or (self.left is not None and self.left <= 0)

    @property
    def left(self) -> float | None:
        """Seconds of the budget that are left; None without one."""
        return None if self.seconds is None else self.seconds - (time.monotonic() - self.started)


class _Watch(tune.Callback):  # type: ignore[misc]
    """Keeps the board while Tune runs, and tells of each trial that has ended."""

    def __init__(self, board: Board, stopped: set[int], told: Callable[[Trial], None]) -> None:
        self.board, self.stopped, self.told = board, stopped, told
        self.began: dict[int, float] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks, to restore them; what a caller is told with need not be fit for that

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        self.began[number] = time.monotonic()
        self.board.update(number, state="running")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        number, curve = trial.config["number"], tuple(result["curve"])
        if curve != self.board.trials[number].curve:
            self.board.update(number, curve=curve)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = trial.config["number"]
        result = trial.last_result or {}
        if number in self.stopped:
            self._end(number, "stopped")
        elif result.get("training_ended"):
            self._end(number, "failed" if result["error"] else "done", result["error"])

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(trial.config["number"], "failed", named(trial.get_error() or RuntimeError("its process died")))

    def _end(self, number: int, state: str, error: str | None = None) -> None:
        if self.board.trials[number].state in ("waiting", "running"):
            began = self.began.get(number)
            seconds = None if began is None else round(time.monotonic() - began, 1)
            self.told(self.board.end(number, state, error, seconds))


def run_trials(
    board: Board,
    tasks: Sequence[Task],
    *,
    concurrent: int,
    seconds: float | None,
    on_end: Callable[[Trial, float | None], None],
) -> str:
    """Run all ``tasks``, the trials of ``board`` in order, ``concurrent`` at a time and for at most ``seconds``.

    ``on_end`` gets each trial that has ended and the seconds left of the budget. Returns ``done``, or ``stopped`` after
    SIGINT or SIGTERM, which end the search but not this process. Trials that were at work at the end are ``cut``.
    """
    epochs = max(task.settings.train.epochs for task in tasks)
    stopped: set[int] = set()
    until = _Until(seconds)
    shown = sys.stdout

    def tell(trial: Trial) -> None:
        with redirect_stdout(shown):
            on_end(trial, until.left)

    halving = _Halving(
        stopped, time_attr="epochs", max_t=epochs, grace_period=1, reduction_factor=2, stop_last_trials=False
    )
    trial = tune.with_parameters(TrainingTrial, tasks=tasks, place=os.getcwd())
    with tempfile.TemporaryDirectory() as scratch, _quiet(board.folder / "ray.log"), _interruptible(until):
        tuner = tune.Tuner(
            tune.with_resources(trial, tune.PlacementGroupFactory([{_this_node(): 0.001}])),
            param_space={"number": tune.grid_search(list(range(len(tasks))))},
            tune_config=tune.TuneConfig(
                metric="score", mode="max", scheduler=halving, max_concurrent_trials=concurrent
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                stop=until,
                callbacks=[_Watch(board, stopped, tell)],
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    for number, one in enumerate(board.trials):
        if one.state == "running":
            on_end(board.end(number, "cut"), until.left)
    board.tidy()
    return "stopped" if until.interrupted else "done"


def _this_node() -> str:
    """The resource of this node: trials hold a little of it, so that they run where the folder of the search is."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)
    return str(next(k for k in node["Resources"] if k.startswith("node:") and k != "node:__internal_head__"))


@contextmanager
def _quiet(file: Path) -> Iterator[None]:
    """Keep Tune's files and tables away; what Ray remarks on its processes, on stdout and stderr, goes to ``file``."""
    before = {name: os.environ.get(name) for name in _QUIET}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(_QUIET)
    logger.setLevel(logging.CRITICAL)
    try:
        with file.open("a", encoding="utf-8") as log, redirect_stdout(log), native_stderr_to(file):
            yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _interruptible(until: _Until) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the search in order, a second one does what it did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            with suppress(TypeError):  # a handler that was not set from Python
                signal.signal(number, handler)

    def interrupt(*_: Any) -> None:
        until.interrupted = True
        restore()

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        restore()
