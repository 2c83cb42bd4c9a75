"""The part of training that Ray Train does: workers are started, watched and stopped, their result is collected."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy

from rayclf import storage
from rayclf.cluster import is_own, root_cause
from rayclf.job_metrics import TrainGauges
from rayclf.model.info import read_info, write_info
from rayclf.training.checkpoint_list import CHECKPOINTS, CopyList, mend_list, prune_checkpoints
from rayclf.training.elastic import Elastic
from rayclf.training.job import Job, train_loop
from rayclf.training.plan import Cluster
from rayclf.training.room import Room
from rayclf.training.run import Run, now
from rayclf.training.tracking import open_trackers

Event = dict[str, Any]


def fit(run: Run, job: Job, cluster: Cluster, on_event: Callable[[Event], None]) -> None:
    """Train, and put the artifact, its metrics and the report into the run folder."""
    if damaged := mend_list(run):
        on_event({"kind": "damaged checkpoints", "names": damaged})
    prune_checkpoints(run)
    trackers = [*open_trackers(job.config.output.track, run.folder, job.config), TrainGauges(run=str(run.folder))]
    state = "failed"

    def tell(event: Event) -> None:
        for tracker in trackers:
            tracker.event(event)
        on_event(event)

    training = _start(run, job, cluster)
    try:
        _watch(run, job, training, tell, Room(job, cluster))
        results = ray.get(job.journal.found.remote())
        if results is None:
            raise KeyboardInterrupt
        _finish(run, results)
        state = "done"
    except KeyboardInterrupt:
        state = "stopped"
        raise
    finally:
        ray.kill(job.journal)
        if training.done():  # a second Ctrl-C does not wait for its controller, which may be writing a checkpoint
            prune_checkpoints(run)
        for tracker in trackers:
            tracker.finish(run, state)


class _Trainer(TorchTrainer):  # type: ignore[misc]  # Ray's class is untyped
    """With our count of the room for workers, and without processes that do nothing here: each takes seconds to start.

    Rows come from the prepared data, not from Ray Data. The guard that frees the workers' places when a trainer dies is
    for the other jobs of a cluster; it asks the dashboard, which a local Ray has not, and Ray 2.60 waits 12 s for it.
    """

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback) if is_own() else (DatasetsCallback,)
        return [one for one in super()._create_default_callbacks() if not isinstance(one, left_out)]

    def _initialize_and_run_controller(self, **told: Any) -> Result:
        if self.scaling_config.elasticity_enabled:
            told["scaling_policy"] = Elastic(self.scaling_config)
        elif is_own():
            told["scaling_policy"] = _Alone(self.scaling_config)
        return super()._initialize_and_run_controller(**told)


class _Alone(FixedScalingPolicy):  # type: ignore[misc]  # Ray's class is untyped
    """A fixed number of workers on a local Ray: nobody to share its room with and no nodes to ask for, so no actor that
    would see to it."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Where Ray registers what it wants."""

    def _maybe_send_resource_request(self) -> None:
        pass


def _trainer(run: Run, job: Job, cluster: Cluster) -> TorchTrainer:
    train = job.config.train
    return _Trainer(
        train_loop,
        train_loop_config={"job": job},
        scaling_config=ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpu,
            resources_per_worker={"CPU": job.config.resources.cpus_per_worker} | ({"GPU": 1} if cluster.gpu else {}),
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,  # a trainer of the same name in the same place goes on from its last checkpoint
            storage_path=str(run.folder),
            checkpoint_config=CheckpointConfig(
                num_to_keep=train.keep_checkpoints,
                checkpoint_score_attribute="rank_by",
                checkpoint_score_order="max",
            ),
            failure_config=FailureConfig(max_failures=train.max_failures),
            callbacks=[CopyList()],
        ),
    )


def _start(run: Run, job: Job, cluster: Cluster) -> Future[Any]:
    """Run a trainer in a thread: in the main one it would take Ctrl-C for itself and abort, checkpoint or not."""
    result: Future[Any] = Future()

    def work() -> None:
        try:
            result.set_result(_trainer(run, job, cluster).fit())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return result


def _watch(run: Run, job: Job, result: Future[Any], tell: Callable[[Event], None], room: Room) -> None:
    """Pass on the lines of ``metrics.jsonl`` as they are written, and what is waited for, until training ends.

    What happens here, a Ctrl-C or an error of ``tell``, ends the training after a checkpoint.
    """
    told = len(run.lines)
    stopped: BaseException | None = None
    while True:
        try:
            ended = _ended(result)
            if stopped is None:
                for event in run.lines[told:]:
                    told += 1
                    tell(event)
                if (waiting := room.news()) is not None:
                    tell(waiting)
            if ended:
                break
        except BaseException as error:
            if stopped is not None:
                raise
            stopped = error
            ray.get(job.journal.stop.remote())
            if isinstance(error, KeyboardInterrupt):
                with suppress(OSError, SystemExit):  # of a terminal that has gone; SystemExit is rich's
                    tell({"kind": "stopping"})
    if stopped is not None:
        raise stopped
    failure = result.exception() or result.result().error
    if failure is not None:
        raise root_cause(failure, "training") from failure


def _ended(result: Future[Any]) -> bool:
    try:
        result.exception(timeout=0.2)
    except TimeoutError:
        return False
    return True


def _finish(run: Run, results: dict[str, Any]) -> None:
    """Make the best checkpoint's artifact the run's, with what the final test found in it, and draw the report."""
    from rayclf.training.report.page import write_report

    with storage.folder_whole(run.artifact) as draft:
        shutil.copytree(Path(results["checkpoint"]) / "artifact", draft, dirs_exist_ok=True)
        write_info(draft, read_info(draft).model_copy(update={**results["info"], "created": now()}))
    for name in ("curves", "mistakes"):
        storage.write_json(run.folder / f"{name}.json", results[name])
    write_report(run)
