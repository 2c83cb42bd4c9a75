"""What each training process does, under Ray Train: epochs over its shard, evaluation, checkpoints, the final test."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from transformers import PreTrainedTokenizerBase

from rayclf.cluster import quiet_data
from rayclf.data.dataset import Dataset
from rayclf.data.stream import epoch_batches
from rayclf.data.tokens import TokenBatch
from rayclf.errors import RayclfError
from rayclf.metrics import LOWER_IS_BETTER, is_better
from rayclf.model.adapters import add_lora
from rayclf.model.artifact import load_weights
from rayclf.model.backbone import Network, fetch, load_network, load_tokenizer
from rayclf.model.engine import Classifier, choose_precision
from rayclf.model.evaluation import evaluate_rows
from rayclf.model.info import ArtifactInfo
from rayclf.training.checkpoints import Progress, load_optimizer, load_progress, save_checkpoint
from rayclf.training.job import Job
from rayclf.training.optimizer import make_optimizer, rate_at
from rayclf.training.step import TargetWeights, all_sum, micro_batches, train_step


class Worker:
    """One training process. Every worker walks through the same steps; worker 0 also writes."""

    def __init__(self, job: Job) -> None:
        quiet_data()
        self.job = job
        self.info = ArtifactInfo.model_validate(job.info)
        self.config = job.config.train
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(job.threads)
        self.precision = choose_precision(self.config.precision, self.device)
        self.weights = TargetWeights.on(self.device, job.weights) if job.weights else None
        self.progress = Progress()
        self.network, self.tokenizer = self._load()
        self.optimizer = make_optimizer(self.network, job.learning_rate, self.config.weight_decay)
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                load_optimizer(Path(folder), self.optimizer)
                self.progress = load_progress(Path(folder))

    def _load(self) -> tuple[Network, PreTrainedTokenizerBase]:
        job, ref = self.job, self.info.backbone
        source = fetch(job.config.model.backbone, ref.revision)
        lora = self.info.tuning == "lora"
        dtype = torch.bfloat16 if lora and self.precision == "bf16" else torch.float32
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            network = load_network(source, job.space, dtype=dtype, seed=self.config.seed, dropout=self.config.dropout)
            if lora:
                add_lora(network, job.config.model.lora)
        else:
            with checkpoint.as_directory() as folder:
                saved = Path(folder) / "artifact"
                network = load_network(
                    source if lora else saved / "backbone", job.space, dtype=dtype, dropout=self.config.dropout
                )
                load_weights(network, saved, self.info, merge=False, trainable=True)
        network.to(self.device).train()
        return network, load_tokenizer(source)

    def run(self) -> None:
        """Train, and end with the test of the best checkpoint."""
        while self.progress.epoch < self.config.epochs:
            self._epoch()
            self._report(self._evaluate("validation", self._live()))
        if "test" in self.job.held_out:
            self._test()

    def _epoch(self) -> None:
        job, config, epoch = self.job, self.config, self.progress.epoch
        # Workers must not drop the same units, and a resumed epoch must drop those it would have dropped.
        torch.manual_seed((config.seed * 1_000 + epoch) * 10_000 + self.rank)
        seen = torch.zeros(job.train_rows, dtype=torch.int32, device=self.device)
        rows = config.batch_size // self.world + (self.rank < config.batch_size % self.world)
        if rows == 0:
            raise RayclfError(f"train.batch_size {config.batch_size} is less than resources.workers {self.world}")
        shard = ray.train.get_dataset_shard("train")
        batches = epoch_batches(shard, rows, len(job.space), config.seed + epoch)
        started, done = time.perf_counter(), 0
        while True:
            batch = next(batches, None)
            result = self._step(batch)
            if result is None:
                break
            if batch is not None:
                seen[batch.rows] += 1
            done += result["rows"]
            self._log(result | {"rows_per_second": round(done / (time.perf_counter() - started), 2)})
        all_sum([seen])
        if not bool((seen == 1).all()):
            lost, doubled = int((seen == 0).sum()), int((seen > 1).sum())
            raise RayclfError(f"epoch {epoch + 1} lost {lost} rows and saw {doubled} twice; please report this")
        self.progress = replace(self.progress, epoch=epoch + 1)

    def _step(self, batch: TokenBatch | None) -> dict[str, Any] | None:
        config, step = self.config, self.progress.step
        rate = rate_at(step, self.job.steps_per_epoch * config.epochs, config, self.job.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        tokens = config.micro_batch_tokens or (512 if self.device.type == "cpu" else 8192)
        micros = micro_batches(batch, tokens, self.info.pad_token_id) if batch else []
        result = train_step(
            self.network,
            micros,
            self.optimizer,
            self.job.space.problem_type,
            device=self.device,
            max_grad_norm=config.max_grad_norm,
            bf16=self.precision == "bf16",
            weights=self.weights,
        )
        if result is None:
            return None
        self.progress = replace(self.progress, step=step + 1)
        return {
            "loss": round(result.loss, 6),
            "learning_rate": rate,
            "grad_norm": round(result.grad_norm, 6),
            "rows": result.rows,
        }

    def _log(self, fields: Mapping[str, Any]) -> None:
        if self.rank == 0:
            self.job.journal.event.remote(
                {"kind": "step", "step": self.progress.step, "epoch": self.progress.epoch + 1, **fields}
            )

    def _live(self) -> Classifier:
        return Classifier(self.network, self.job.encoding, self.info, precision=self.precision)

    def _evaluate(self, part: str, classifier: Classifier) -> dict[str, Any] | None:
        """Metrics of a held-out part, each worker doing its share of the rows; None when there is no such part."""
        if part not in self.job.held_out:
            return None
        rows = Dataset.open(self.job.dataset).read(part)
        mine = rows.take(pa.array(np.arange(self.rank, rows.num_rows, self.world)))
        state, probabilities = evaluate_rows(classifier, mine)
        if self.world > 1:
            results: list[Any] = [None] * self.world
            dist.all_gather_object(results, (state, probabilities))
            state = results[0][0]
            whole = np.empty((rows.num_rows, len(self.job.space)), np.float32)
            for rank, (other, part_probabilities) in enumerate(results):
                whole[rank :: self.world] = part_probabilities
                if rank:
                    state.merge(other)
            probabilities = whole
        metrics = state.compute()
        if self.rank == 0:
            if part == "test":
                ray.get(self.job.journal.predictions.remote(_predictions(rows, probabilities)))
            ray.get(
                self.job.journal.event.remote(
                    {
                        "kind": "evaluation",
                        "part": part,
                        "step": self.progress.step,
                        "epoch": self.progress.epoch,
                        **metrics,
                    }
                )
            )
        return metrics

    def _report(self, metrics: dict[str, Any] | None) -> None:
        """Hand Ray Train the checkpoint of this epoch with the metrics that choose the best one."""
        score = metrics[self.config.metric] if metrics else float(self.progress.epoch)
        lower = metrics is not None and self.config.metric in LOWER_IS_BETTER
        report = {"epoch": self.progress.epoch, "rank_by": -score if lower else score, "validation": metrics}
        if self.rank != 0:
            ray.train.report(report)
            return
        with tempfile.TemporaryDirectory() as folder:
            info = self.info.model_copy(update={"metrics": {"validation": metrics} if metrics else {}})
            save_checkpoint(Path(folder), self.network, self.tokenizer, info, self.optimizer, self.progress)
            ray.train.report(report, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def _test(self) -> None:
        """Test what the user will get: the best checkpoint as it was written, loaded anew."""
        reported = ray.train.get_all_reported_checkpoints()
        best = reported[0]
        for other in reported[1:]:
            if is_better("rank_by", other.metrics["rank_by"], best.metrics["rank_by"]):
                best = other
        del self.network, self.optimizer
        with best.checkpoint.as_directory() as folder:
            classifier = Classifier.load(Path(folder) / "artifact", device=str(self.device), precision=self.precision)
        self._evaluate("test", classifier)


def _predictions(rows: pa.Table, probabilities: np.ndarray[Any, Any]) -> pa.Table:
    flat = pa.array(probabilities.reshape(-1), pa.float32())
    offsets = pa.array(np.arange(len(probabilities) + 1, dtype=np.int32) * probabilities.shape[1])
    return rows.select(["id", "positive", "unknown"]).append_column(
        "probabilities", pa.ListArray.from_arrays(offsets, flat)
    )
