"""From a labelled file to a run folder: check everything, then let Ray Train do the work."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayclf import storage
from rayclf.cluster import connect, cores, require_cpus, root_cause
from rayclf.config import Config, load_config
from rayclf.data.rows import LabelledRows, read_labelled
from rayclf.data.split import stratified_split
from rayclf.data.tokens import Encoding
from rayclf.errors import ConfigError, ResourceError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics import METRICS
from rayclf.model.info import ArtifactInfo, BackboneRef, read_info, write_info
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
    settings = _settings(config, backbone, overrides)
    folder = check_place(output, settings.output.overwrite)
    found, parts = prepare_rows(data, test, settings)
    on_event(
        {
            "kind": "data",
            "text": found.text,
            "label": found.label,
            "space": found.space,
            "parts": parts,
        }
    )
    plan = _plan_model(settings, found)
    connect()
    workers = _workers(settings)
    resolved = settings.model_copy(
        update={
            "model": settings.model.model_copy(update={"method": plan.info.tuning, "max_length": plan.info.max_length}),
            "train": settings.train.model_copy(update={"learning_rate": plan.learning_rate}),
            "resources": settings.resources.model_copy(update={"workers": workers}),
        }
    )
    rows = {part: table.num_rows for part, table in parts.items()}
    facts = {
        "data": os.fspath(data),
        "test": os.fspath(test) if test else None,
        "rows": rows,
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
        checkpoint = _fit(run, resolved, plan, parts, workers, on_event)
        _finish(run, checkpoint)
    except BaseException as error:
        reason = "stopped" if isinstance(error, KeyboardInterrupt) else str(error)
        run.write_status(state="failed", error=reason, ended=now())
        raise
    run.write_status(state="done", ended=now())
    return run


def _settings(config: Config | str | Path | None, backbone: str | None, overrides: Mapping[str, Any] | None) -> Config:
    laid_over = dict(overrides or {})
    if backbone is not None:
        laid_over["model.backbone"] = backbone
    if isinstance(config, Config):
        settings = config
        if laid_over:
            raise ConfigError("overrides and backbone go with a YAML file or none, not with a Config; set its fields")
    else:
        settings = load_config(config, laid_over)
    if settings.train.metric not in METRICS:
        raise ConfigError(f"train.metric: no metric '{settings.train.metric}'; choose one of {', '.join(METRICS)}")
    return settings


def prepare_rows(
    data: str | os.PathLike[str], test: str | os.PathLike[str] | None, settings: Config
) -> tuple[LabelledRows, dict[str, pa.Table]]:
    """The labelled rows of ``data`` and their parts: ``train``, and ``validation`` and ``test`` if they have rows."""
    found = read_labelled(data, settings.data, problem_type=settings.labels.problem_type)
    shares = {"validation": settings.data.validation}
    given = {}
    if test is None:
        shares = {"test": settings.data.test, **shares}
    else:
        columns = settings.data.model_copy(update={"text": found.text, "label": found.label})
        given["test"] = read_labelled(test, columns, space=found.space).table
    if sum(shares.values()) >= 1:
        raise ConfigError("data.test and data.validation: leave no rows to train on; lower them")
    parts = stratified_split(found.table, {part: share for part, share in shares.items() if share}, settings.train.seed)
    return found, parts | given


@dataclass(frozen=True)
class ModelPlan:
    """What is decided about the model before any worker starts."""

    info: ArtifactInfo
    encoding: Encoding
    learning_rate: float
    parameters: int


def _plan_model(settings: Config, found: LabelledRows) -> ModelPlan:
    """Look at the backbone without its weights: what it is, how to tune it, how to read text for it."""
    from rayclf.model.backbone import DEFAULT_BACKBONE, describe, fetch, load_tokenizer, text_encoding, weight_hashes
    from rayclf.training.optimizer import default_learning_rate

    model, space = settings.model, found.space
    source = fetch(model.backbone, model.revision)
    about = describe(source)
    tokenizer = load_tokenizer(source)
    encoding = text_encoding(tokenizer, about.config, model)
    tuning = model.method if model.method != "auto" else "lora" if about.layout.pooling == "last" else "full"
    local = Path(model.backbone).expanduser() if model.backbone else None
    name = str(local.resolve()) if local and local.is_dir() else model.backbone or DEFAULT_BACKBONE
    threshold = settings.labels.threshold if space.problem_type is not ProblemType.MULTICLASS else 0.0
    info = ArtifactInfo(
        label_space=space.to_json(),
        tuning=tuning,
        pooling=about.layout.pooling,
        template=model.template,
        max_length=encoding.max_length,
        pad_token_id=tokenizer.pad_token_id,
        thresholds=[threshold] * len(space),
        temperature=1.0,
        text_column=found.text,
        backbone=BackboneRef(
            id=name, revision=model.revision, model_type=about.config.model_type, sha256=weight_hashes(source)
        ),
    )
    rate = settings.train.learning_rate or default_learning_rate(tuning, about.parameters)
    return ModelPlan(info, encoding, rate, about.parameters)


def _workers(settings: Config) -> int:
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = settings.resources.workers or max(1, gpus)
    if gpus and workers > gpus:
        raise ResourceError(
            f"resources.workers: {workers} workers want a GPU each and the cluster has {gpus}; lower it"
        )
    if workers > settings.train.batch_size:
        raise ConfigError(
            f"train.batch_size: {settings.train.batch_size} rows cannot be shared by {workers} workers; raise it"
        )
    needed = workers * settings.resources.cpus_per_worker + 1
    require_cpus(
        needed,
        f"training with {workers} worker(s), and one CPU for reading,",
        "lower resources.workers or resources.cpus_per_worker",
    )
    return workers


def _fit(
    run: Run,
    config: Config,
    plan: ModelPlan,
    parts: dict[str, pa.Table],
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
        train_rows=parts["train"].num_rows,
        held_out={part: ray.put(table) for part, table in parts.items() if part != "train"},
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
        datasets={"train": training_stream(parts["train"], plan.encoding, workers, config.train.seed)},
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
