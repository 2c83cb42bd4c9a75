"""From a labelled file to a run folder: check everything, then let Ray Train do the work."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rayclf import storage
from rayclf.cluster import connect, cores, root_cause
from rayclf.config import Config
from rayclf.data.dataset import Dataset
from rayclf.data.weights import LabelWeights, label_weights
from rayclf.labels import LabelSpace
from rayclf.model.info import read_info, write_info
from rayclf.training.plan import ModelPlan, count_workers, find_data, plan_model, resolve_settings
from rayclf.training.run import Run, check_place, create_run, now

Event = dict[str, Any]


def train(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    config: Config | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Run:
    """Fine-tune a classifier on a labelled file and write the run folder ``output``.

    ``test`` is a file of rows for the final test, else a part of ``data`` is held out. ``config`` is a YAML file or a
    :class:`rayclf.config.Config`, ``overrides`` its fields by dotted path (``{"train.epochs": 5}``). ``on_event`` gets
    what happens, beginning with ``{"kind": "data", …}``, then every line of ``metrics.jsonl``.

    Raises UserError (of one of its kinds) for what the caller can mend, before anything is written; RayclfError when
    training itself fails, which leaves the run folder with the state ``failed``.
    """
    settings = resolve_settings(config, backbone, overrides)
    folder = check_place(output, settings.output.overwrite)
    found = find_data(data, test, settings)
    on_event(
        {
            "kind": "data",
            "reads": found.reads,
            "label": found.label,
            "space": found.space,
            "parts": found.counts,
            "read": found.read,
            "quarantined": found.quarantined,
        }
    )
    plan = plan_model(settings, found)
    connect()
    workers = count_workers(settings)
    resolved = settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"method": plan.info.tuning, "max_length": plan.info.max_length}),
            "train": settings.train.model_copy(update={"learning_rate": plan.learning_rate}),
            "resources": settings.resources.model_copy(update={"workers": workers}),
        }
    )
    weights = label_weights(settings.train.class_weights, found.counts["train"], found.space)
    rows = {part: counts.rows for part, counts in found.counts.items()}
    facts = {
        "data": os.fspath(data),
        "test": os.fspath(test) if test else None,
        "rows": rows,
        "read": found.read,
        "quarantined": found.quarantined,
        "backbone": plan.info.backbone.id,
    }
    run = create_run(folder, resolved, found.space, facts | {"epochs": settings.train.epochs})
    on_event(
        {
            "kind": "start",
            "backbone": plan.info.backbone.id,
            "tuning": plan.info.tuning,
            "parameters": plan.parameters,
            "workers": workers,
            "steps": settings.train.epochs * -(-rows["train"] // settings.train.batch_size),
        }
    )
    try:
        dataset = found.write(run.folder, settings, on_event)
        checkpoint = _fit(run, resolved, plan, dataset, weights, workers, on_event)
        _finish(run, checkpoint)
    except BaseException as error:
        reason = "stopped" if isinstance(error, KeyboardInterrupt) else str(error)
        run.write_status(state="failed", error=reason, ended=now())
        raise
    run.write_status(state="done", ended=now())
    return run


def _fit(
    run: Run,
    config: Config,
    plan: ModelPlan,
    dataset: Dataset,
    weights: LabelWeights | None,
    workers: int,
    on_event: Callable[[Event], None],
) -> Any:
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from rayclf.data.stream import EveryRow, training_stream
    from rayclf.training.job import Job, train_loop
    from rayclf.training.journal import open_journal

    journal = open_journal(run.folder)
    gpu = bool(ray.cluster_resources().get("GPU", 0))
    job = Job(
        config=config,
        space=LabelSpace.from_json(plan.info.label_space),
        encoding=plan.encoding,
        info=plan.info.model_dump(),
        learning_rate=plan.learning_rate,
        train_rows=dataset.rows["train"],
        dataset=dataset.folder,
        held_out=tuple(part for part in dataset.rows if part != "train"),
        weights=weights,
        journal=journal,
        threads=config.resources.threads or max(1, cores() // workers),
    )
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=gpu,
            resources_per_worker={"CPU": config.resources.cpus_per_worker} | ({"GPU": 1} if gpu else {}),
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=str(run.folder),
            checkpoint_config=CheckpointConfig(
                num_to_keep=config.train.keep_checkpoints,
                checkpoint_score_attribute="rank_by",
                checkpoint_score_order="max",
            ),
            failure_config=FailureConfig(max_failures=config.train.max_failures),
        ),
        datasets={"train": training_stream(dataset, plan.encoding, workers)},
        dataset_config=EveryRow(),
    )
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(run, on_event, stop), daemon=True)
    watcher.start()
    try:
        result = trainer.fit()
    except Exception as error:
        raise root_cause(error, "training") from error
    finally:
        stop.set()
        watcher.join()
        ray.kill(journal)
    if result.error is not None:
        raise root_cause(result.error, "training") from result.error
    best = max(result.best_checkpoints, key=lambda pair: pair[1]["rank_by"])
    return best[0]


def _watch(run: Run, on_event: Callable[[Event], None], stop: threading.Event) -> None:
    """Pass on the lines of ``metrics.jsonl`` as they are written, and the last of them after the end."""
    told = 0
    while True:
        ended = stop.wait(0.2)
        events = run.events
        for event in events[told:]:
            on_event(event)
        told = len(events)
        if ended:
            return


def _finish(run: Run, checkpoint: Any) -> None:
    """Make the best checkpoint's artifact the run's, with all metrics in it, and draw the report."""
    from rayclf.training.report import write_report

    with checkpoint.as_directory() as folder, storage.folder_whole(run.artifact) as draft:
        shutil.copytree(Path(folder) / "artifact", draft, dirs_exist_ok=True)
        tests = [event for event in run.events if event.get("part") == "test"]
        if tests:
            info = read_info(draft)
            hidden = ("time", "kind", "part", "step", "epoch")
            metrics = {name: value for name, value in tests[-1].items() if name not in hidden}
            write_info(draft, info.model_copy(update={"metrics": info.metrics | {"test": metrics}}))
    write_report(run)
