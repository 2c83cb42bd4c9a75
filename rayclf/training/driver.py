"""From a labelled file to a run folder: check everything, then let Ray Train do the work."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rayclf.cluster import connect
from rayclf.config import Config
from rayclf.data.plan import Plan
from rayclf.data.weights import label_weights, prior_logits
from rayclf.errors import ConfigError, UserError
from rayclf.labels import ProblemType
from rayclf.metrics import metrics_of
from rayclf.model.backbone_files import local_folder
from rayclf.own_metric_state import check_room
from rayclf.own_metrics import check_choice, load_metrics
from rayclf.storage import local_path
from rayclf.training.heartbeat import beating
from rayclf.training.job import Job
from rayclf.training.place import check_place, discard, mend, put_back, set_aside
from rayclf.training.plan import (
    ModelPlan,
    TrainingData,
    check_loss,
    check_offload,
    choose_workers,
    find_data,
    plan_model,
    resolve_settings,
)
from rayclf.training.resume import check_same, go_on, interrupted, prepared_folder
from rayclf.training.run import Run, create_run, now
from rayclf.training.tracking import check_trackers

Event = dict[str, Any]


def train(
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    config: Config | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Run:
    """Fine-tune a classifier on a labelled file and write the run folder ``output``.

    ``test`` is a file of rows for the final test, else a part of ``data`` is held out. ``config`` is a YAML file or a
    :class:`rayclf.config.Config`, ``overrides`` its fields by dotted path (``{"train.epochs": 5}``). With ``resume`` a
    run that was interrupted goes on from its last checkpoint, under the settings that it began with; one that is done
    is returned, and where there is none a new one begins. ``on_event`` gets what happens, beginning with
    ``{"kind": "data", …}``, then every line of ``metrics.jsonl``; what it raises ends the training after a checkpoint.

    Raises UserError (of one of its kinds) for what the caller can mend, before a step is made, and leaves nothing
    behind; RayclfError when training itself fails, which leaves the run folder with the state ``failed``. A
    KeyboardInterrupt waits for a checkpoint, leaves the state ``stopped`` and is raised again; a second one does not
    wait.
    """
    settings = resolve_settings(config, backbone, overrides)
    if resume:
        mend(local_path(output, "--output"))
    earlier = interrupted(output) if resume else None
    if earlier is not None:
        check_same(earlier, data, test, settings)
        if earlier.status["state"] == "done":
            on_event({"kind": "done before"})
            return earlier
        settings = go_on(earlier, settings)
        check_offload(settings.train)  # one of them may be the run's, the other asked for now
        if (prepared := prepared_folder(earlier)) is not None:
            data, test = prepared, None
    own = load_metrics(settings.evaluation.metrics)
    check_choice(settings.train.metric, own)
    check_trackers(settings.output.track)
    base = local_folder(settings.model.backbone)  # a path that leads nowhere is told before data is read
    folder = check_place(output, settings.output.overwrite, (data, test, base)) if earlier is None else earlier.folder
    found = find_data(data, test, settings)
    check_choice(settings.train.metric, own, metrics_of(found.space))
    check_room(own, max(counts.rows for counts in found.counts.values()), len(found.space))
    check_loss(settings.train.loss, found.space.problem_type)
    weights = label_weights(settings.train.class_weights, found.counts["train"], found.space)
    if settings.evaluation.patience is not None and "validation" not in found.counts:
        raise ConfigError(
            "evaluation.patience: there are no validation rows to watch; set data.validation, or leave it out"
        )
    on_event(found.event())
    with ThreadPoolExecutor(1) as beside:  # importing Transformers and starting a Ray take seconds each
        planned = beside.submit(plan_model, settings, found)
        connect()
        plan = planned.result()
    cluster = choose_workers(settings, plan)
    resolved = _resolved(settings, found, plan)
    rows = {part: counts.rows for part, counts in found.counts.items()}
    if earlier is None:
        facts = {
            "data": os.fspath(data),
            "test": os.fspath(test) if test else None,
            "rows": rows,
            "read": found.read,
            "quarantined": found.quarantined,
            "hints": found.hints,
            "backbone": plan.info.backbone.id,
            "epochs": settings.train.epochs,
        }
        set_aside(folder)
        run = create_run(folder, resolved, found.space, facts)
    else:
        run = earlier
        run.write_status(
            state="running", pid=os.getpid(), error=None, ended=None, resumed=run.status.get("resumed", 0) + 1
        )

    def tell(event: Event) -> None:
        if event["kind"] == "step":
            discard(run.folder)
        on_event(event)

    try:
        run.write_status(workers=cluster.most, strategy=cluster.strategy)
        on_event(
            {
                "kind": "start",
                "backbone": plan.info.backbone.id,
                "tuning": plan.tuning,
                "max_length": plan.info.max_length,
                "asked_length": settings.model.max_length,
                "parameters": plan.parameters,
                "workers": cluster.most,
                "strategy": cluster.strategy,
                "steps": settings.train.epochs * -(-rows["train"] // settings.train.batch_size),
            }
        )
        from rayclf.training.fit import fit
        from rayclf.training.journal import open_journal

        with beating(run.folder):
            dataset = found.write(run.folder, settings, on_event)
            multiclass = found.space.problem_type is ProblemType.MULTICLASS
            job = Job(
                config=resolved.model_copy(
                    update={"train": resolved.train.model_copy(update={"strategy": cluster.strategy})}
                ),
                space=found.space,
                encoding=plan.encoding,
                info=plan.info.model_dump(),
                learning_rate=plan.learning_rate,
                dataset=dataset.folder,
                rows=dataset.rows,
                journal=open_journal(run.folder),
                weights=weights,
                prior=None if multiclass else prior_logits(found.counts["train"], weights),
                own=own,
            )
            fit(run, job, cluster, tell)
    except BaseException as error:
        if not run.reached:
            if put_back(run.folder, on_event):
                raise
            if isinstance(error, UserError) and earlier is None:
                # A mistake that only the workers could find: mended, the same command finds its place free.
                shutil.rmtree(run.folder, ignore_errors=True)
                raise
        discard(run.folder)
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)  # Ctrl-C, or a terminal that has gone
        told = {"state": "stopped" if stopped else "failed", "error": None if stopped else str(error)}
        run.write_status(**told, **run.reached, ended=now())
        raise
    discard(run.folder)
    run.write_status(state="done", **run.reached, ended=now())
    return run


def _resolved(settings: Config, found: TrainingData, plan: ModelPlan) -> Config:
    """The settings with what was left to rayclf filled in, the record of the run; but for what the cluster decides,
    which may be another one when the run goes on, and for columns of data that were prepared before."""
    choices: dict[str, dict[str, Any]] = {
        "model": {"method": plan.tuning},
        "train": {"learning_rate": plan.learning_rate, "head_rows": plan.head_rows},
    }
    if isinstance(found.source, Plan):
        choices["data"] = {**found.reads.model_dump(), "label": found.label, "separator": found.separator}
        choices["labels"] = {"problem_type": found.space.problem_type}
    return settings.model_copy(
        update={name: getattr(settings, name).model_copy(update=fields) for name, fields in choices.items()}
    )
