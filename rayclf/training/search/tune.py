"""``rayclf tune``: many trainings on the same rows with different settings, of which the best is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rayclf import errors
from rayclf.cluster import connect, cores, is_own
from rayclf.config import Config
from rayclf.errors import ConfigError, RayclfError, one_line
from rayclf.metrics import LOWER_IS_BETTER, metrics_of
from rayclf.model.backbone_files import local_folder
from rayclf.own_metrics import check_choice, find_choice, load_metrics
from rayclf.training.heartbeat import beating
from rayclf.training.place import check_place, discard, put_back, set_aside
from rayclf.training.plan import check_loss, choose_workers, find_data, plan_model, resolve_settings
from rayclf.training.search.record import SEARCH, Board, Search, Trial
from rayclf.training.search.space import RATE, check_adapters, current, default_space, draw, read_space, with_values

Event = dict[str, Any]


def tune(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    config: Config | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    search: Iterable[str] | Mapping[str, str] = (),
    trials: int = 8,
    minutes: float | None = None,
    keep: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Search:
    """Search for better settings than the given ones, and keep the best run in ``output/best``.

    ``data``, ``test``, ``backbone``, ``config`` and ``overrides`` are as for :func:`rayclf.train`. ``search`` names the
    fields and their values (``"train.learning_rate=1e-5..1e-3"``, or a mapping of such pairs); without it the learning
    rate, the epochs and, with adapters, their rank are searched. The first of at most ``trials`` trials has the given
    settings; none starts or goes on after ``minutes``. The rows are prepared once. Trials are judged by
    ``train.metric`` on the validation rows, never by the test rows; ``keep`` keeps the artifacts of all.

    ``on_event`` gets ``{"kind": "data", …}`` as in training, ``{"kind": "search", …}`` with the space, then for each
    trial that has ended ``{"kind": "trial", "trial": Trial, "ended": n, "of": trials, "left": seconds or None}``.

    Ctrl-C ends the search and keeps the best so far. Raises UserError for what the caller can mend, before anything is
    written; RayclfError (of the first trial's kind) when no trial finished.
    """
    settings = resolve_settings(config, backbone, overrides)
    if trials < 1:
        raise ConfigError(f"--trials {trials}: at least 1 is needed")
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"--minutes {minutes:g}: must be more than 0")
    own = load_metrics(settings.evaluation.metrics)
    check_choice(settings.train.metric, own)
    given = [f"{path}={values}" for path, values in search.items()] if isinstance(search, Mapping) else list(search)
    space = read_space(given, settings)
    base = local_folder(settings.model.backbone)  # a path that leads nowhere is told before data is read
    folder = check_place(output, settings.output.overwrite, (data, test, base), SEARCH)
    found = find_data(data, test, settings)
    check_choice(settings.train.metric, own, metrics_of(found.space))
    check_loss(settings.train.loss, found.space.problem_type)
    rows = {part: counts.rows for part, counts in found.counts.items()}
    if not rows.get("validation"):
        raise ConfigError("data.validation: trials are judged on validation rows and there are none; set a share, 0.1")
    on_event(found.event())
    plan = plan_model(settings, found)
    check_adapters(space, plan.tuning)
    space = space or default_space(settings, plan.learning_rate, plan.tuning)
    first = {path: plan.learning_rate if path == RATE else current(settings, path) for path in space}
    points = draw(space, first, trials, settings.train.seed)
    each = [with_values(settings, point) for point in points]
    connect()
    cluster = choose_workers(settings, plan)
    concurrent, threads = share_out(settings, cluster.most, len(points))
    if settings.resources.threads is None:
        each = [with_values(one, {"resources.threads": threads}) for one in each]

    set_aside(folder, SEARCH)
    folder.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"data": os.fspath(data), "rows": rows, "minutes": minutes}
    facts |= {"pid": os.getpid(), "host": os.uname().nodename}
    facts |= {"space": {path: str(domain) for path, domain in space.items()}, "concurrent": concurrent}
    digits = len(str(len(points) - 1))
    listed = [Trial(f"{number:0{digits}}", point) for number, point in enumerate(points)]
    chosen = find_choice(settings.train.metric, own)
    lower = chosen.lower_is_better if chosen else settings.train.metric in LOWER_IS_BETTER
    board = Board(folder, facts, settings.train.metric, lower, listed, keep)
    board.write()
    on_event({"kind": "search", "space": space, "trials": len(points), "concurrent": concurrent, "first": first})

    def tell(event: Event) -> None:
        if board.winner is not None:
            discard(folder)
        on_event(event)

    try:
        with beating(folder):
            dataset = found.write(folder / "data", settings, on_event)
            state = _run(board, dataset.folder, rows["train"], each, concurrent, minutes, tell)
    except BaseException as error:
        if board.winner is not None or not put_back(folder, on_event, SEARCH):
            board.write(state="failed", error=one_line(error, 500))
        raise
    if board.winner is None:
        nothing = _nothing(board, state, minutes)
        if not put_back(folder, on_event, SEARCH):
            board.finish("failed")
        raise nothing
    discard(folder)
    return board.finish(state)


def _run(
    board: Board,
    dataset: str,
    rows: int,
    each: list[Config],
    concurrent: int,
    minutes: float | None,
    on_event: Callable[[Event], None],
) -> str:
    from rayclf.training.search.trainable import Task
    from rayclf.training.search.trials import run_trials

    tasks = [
        Task(dataset, board.place(trial), settings, -(-rows // settings.train.batch_size), board.lower, is_own())
        for trial, settings in zip(board.trials, each, strict=True)
    ]
    began = time.monotonic()

    def tell(trial: Trial, budget: float | None) -> None:
        ended = sum(one.state not in ("waiting", "running") for one in board.trials)
        left = (time.monotonic() - began) / ended * (len(tasks) - ended)
        left = left if budget is None else max(0.0, min(left, budget))
        event = {"kind": "trial", "trial": trial, "ended": ended, "of": len(tasks), "left": left}
        on_event(event | {"best": board.winner})

    seconds = None if minutes is None else minutes * 60
    return run_trials(board, tasks, concurrent=concurrent, seconds=seconds, on_end=tell)


def share_out(settings: Config, workers: int, trials: int) -> tuple[int, int]:
    """How many trials the connected cluster runs at once, at least 1, and the compute threads of each worker.

    A trial holds the CPUs and GPUs of its workers. One CPU stays free for reading, as every training needs it now and
    then for a moment; trials that took it too would wait for each other.
    """
    import ray

    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    places = int((there.get("CPU", 0) - 1) / (workers * settings.resources.cpus_per_worker))
    if gpus:
        places = min(places, gpus // workers)
    concurrent = max(1, min(places, trials))
    nodes = max(1, sum(bool(node["Alive"]) for node in ray.nodes()))
    here = -(-concurrent * workers // nodes)
    return concurrent, max(1, cores() // here)


def _nothing(board: Board, state: str, minutes: float | None) -> BaseException:
    """Why there is no winner, as the error to raise."""
    if state == "stopped":
        return KeyboardInterrupt()
    failures = [trial.error for trial in board.trials if trial.error]
    if not failures:
        return RayclfError(f"no trial finished within --minutes {minutes:g}; give it more, or lower train.epochs")
    kind, _, text = failures[0].partition(": ")
    cause: type[RayclfError] = getattr(errors, kind, RayclfError)
    return cause(f"no trial finished; the first failure: {text or kind}")
