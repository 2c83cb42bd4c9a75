"""What each training process does under Ray Train: steps, evaluations, checkpoints, and the final test."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from rayclf.cluster import cores, quiet_data
from rayclf.data.dataset import Dataset
from rayclf.data.order import EpochOrder
from rayclf.data.stream import epoch_batches
from rayclf.data.tokens import TokenBatch
from rayclf.model.adapters import add_lora
from rayclf.model.allocator import keep_freed_memory
from rayclf.model.artifact import backbone_folder, load_weights, save_artifact
from rayclf.model.backbone import load_network
from rayclf.model.backbone_files import fetch
from rayclf.model.checkpointing import enable_checkpointing
from rayclf.model.engine import Classifier, choose_precision
from rayclf.model.info import ArtifactInfo
from rayclf.model.network import Network
from rayclf.model.runtime.pytorch import TorchRuntime, choose_batching
from rayclf.model.tokenizer import load_tokenizer
from rayclf.training.checkpoints import UNRANKED, Progress, load_optimizer_state, load_progress, save_state
from rayclf.training.cost.memory import micro_batch_tokens
from rayclf.training.evaluator import Evaluator, rank_of
from rayclf.training.finish import final_test
from rayclf.training.head_first import HeadInputs
from rayclf.training.head_rows import first_rows, steps_to_read
from rayclf.training.job import Job
from rayclf.training.losses import TrainingLoss
from rayclf.training.optimizer import rate_at
from rayclf.training.preemption import Preemption
from rayclf.training.step import StepResult, micro_batches, train_step
from rayclf.training.strategies import make_strategy


class Worker:
    """One training process. Every worker walks through the same steps; worker 0 also writes."""

    def __init__(self, job: Job) -> None:
        quiet_data()
        self.job, self.config = job, job.config.train
        self.info = ArtifactInfo.model_validate(job.info)
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        ray.get(job.journal.worker.remote(self.rank, self.world, os.uname().nodename, os.getpid()))
        self.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            keep_freed_memory()
        torch.set_num_threads(job.config.resources.threads or max(1, cores() // context.get_local_world_size()))
        self.precision = choose_precision(self.config.precision, self.device)
        self.dataset = Dataset.open(job.dataset)
        self.loss = TrainingLoss.on(self.device, job.space.problem_type, self.config, job.weights)
        self.tokens = micro_batch_tokens(self.config, cpu=self.device.type == "cpu")
        self.progress = Progress()
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            self._read_ahead()
            self.network = self._fresh()
        else:
            with checkpoint.as_directory() as folder:
                self.progress = load_progress(Path(folder))
                self._read_ahead()
                self.network = self._saved(Path(folder) / "artifact")
                self.strategy = make_strategy(self.network, self.config)
                self.strategy.load_optimizer_state(load_optimizer_state(Path(folder)))
        self.packed = choose_batching(self.config.batching, self.network, training=True)
        self.tokenizer = load_tokenizer(self._source)
        self.evaluator = Evaluator(job, self.dataset, self.rank, self.world)
        self._asked = job.journal.stopping.remote()
        self._preemption, self._ask = Preemption(), False

    @property
    def _source(self) -> Path:
        return fetch(self.job.config.model.backbone, self.info.backbone.revision)

    def _network(self, folder: Path, seed: int = 0) -> Network:
        frozen = self.info.tuning != "full"
        dtype = torch.bfloat16 if frozen and self.precision == "bf16" else torch.float32
        network = load_network(
            folder,
            self.job.space,
            dtype=dtype,
            seed=seed,
            dropout=self.config.dropout,
            quantization=self.info.quantization,
            compute_dtype=dtype,
            device=str(self.device),
        )
        if self.info.tuning == "head":
            network.backbone.requires_grad_(False)
        return network

    def _fresh(self) -> Network:
        network = self._network(self._source, self.config.seed)
        if self.job.prior is not None:
            network.head.begin_with(torch.from_numpy(self.job.prior))
        if self.info.tuning == "lora":
            add_lora(network, self.job.config.model.lora)
        return self._ready(network)

    def _saved(self, artifact: Path) -> Network:
        network = self._network(backbone_folder(artifact, self.info))
        load_weights(network, artifact, self.info, merge=False, trainable=True)
        return self._ready(network)

    def _ready(self, network: Network) -> Network:
        if self.config.gradient_checkpointing:
            enable_checkpointing(network)
        return network.to(self.device).train()

    def run(self) -> None:
        """Train from where the last checkpoint left off, and end with the test of the best one."""
        started = self.progress.step
        if self.rank == 0:
            ray.get(self.job.journal.begin.remote(started if ray.train.get_checkpoint() is not None else None))
        if ray.train.get_checkpoint() is None:
            self._begin()
        while not self.progress.finished:
            if self._train_epoch():
                return  # stopped from outside
        del self.strategy, self.network  # the best checkpoint may need their room
        final_test(self.job, self.evaluator, self.device)

    def _begin(self) -> None:
        """The evaluation before training, the head, and what updates the weights, which takes them as they are then."""
        baseline = self.job.config.evaluation.baseline
        if baseline:
            self._judge(self.network)
        if self.config.head_rows:
            self._fit_head(self.config.head_rows)
            if baseline:  # what the head alone knows: the rest is what the steps after it have learned
                self._judge(self.network, head=True)
        self.strategy = make_strategy(self.network, self.config)

    def _fit_head(self, most: int) -> None:
        began, order = time.perf_counter(), self._order
        steps = steps_to_read(order, most, len(self.job.space))
        inputs = HeadInputs.read(
            self.network,
            islice(self._batches, steps),
            first_rows(order, steps),
            labels=len(self.job.space),
            max_tokens=self.tokens,
            pad_token_id=self.info.pad_token_id,
            packed=self.packed,
            bf16=self.precision == "bf16",
        )
        self._read_ahead()
        before, after = inputs.fit(self.network, self.loss, self.config.seed)
        if self.rank == 0:
            told = {"rows": len(inputs.states), "loss_before": round(before, 6), "loss": round(after, 6)}
            seconds = round(time.perf_counter() - began, 1)
            self.job.journal.event.remote({"kind": "head", "step": 0, "epoch": 0, **told, "seconds": seconds})

    @property
    def _epoch(self) -> int:
        return self.progress.step // self.job.steps_per_epoch

    @property
    def _order(self) -> EpochOrder:
        config, shuffle = self.config, self.job.config.data.shuffle
        return EpochOrder(self.job.rows["train"], config.batch_size, config.seed, self._epoch, shuffle)

    def _read_ahead(self) -> None:
        """Have the rows of the epoch read from the next step on: the first come while the network is still loaded."""
        if not self.progress.finished:
            first = self.progress.step % self.job.steps_per_epoch
            share = {"rank": self.rank, "world": self.world, "start": first}
            self._batches = epoch_batches(self.dataset, self.job.encoding, self._order, **share)

    def _train_epoch(self) -> bool:
        """Train to the end of the epoch; true when a stop was asked for."""
        started, done = time.perf_counter(), 0
        for batch in self._batches:
            result, rate = self._step(batch)
            done += result.rows
            self._log(result, rate, done / (time.perf_counter() - started))
            stop, leaving, self._ask = result.signals
            if self._after_step(stop, leaving):
                return stop
        self._read_ahead()
        return False

    def _step(self, batch: TokenBatch) -> tuple[StepResult, float]:
        step = self.progress.step
        rate = rate_at(step, self.job.steps, self.config, self.job.learning_rate)
        # Seeded by the step, so that dropout after a restart is what it would have been.
        torch.manual_seed((self.config.seed * 1_000_003 + step) * 10_007 + self.rank)
        result = train_step(
            self.strategy,
            micro_batches(batch, self.tokens, self.info.pad_token_id, self.packed),
            self.loss,
            learning_rate=rate,
            device=self.device,
            bf16=self.precision == "bf16",
            signals=(self._told_to_stop(), self._preemption.news(self._ask), self._preemption.due()),
        )
        self.progress = replace(self.progress, step=step + 1, finished=step + 1 == self.job.steps)
        return result, rate

    def _told_to_stop(self) -> bool:
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return False
        answer = bool(ray.get(self._asked))
        self._asked = self.job.journal.stopping.remote()
        return answer

    def _after_step(self, stop: bool, leaving: bool) -> bool:
        """Evaluate and write a checkpoint where one is due; true when no step is to follow."""
        step, plan = self.progress.step, self.job.config.evaluation
        ended = step % self.job.steps_per_epoch == 0
        evaluated = ended or (plan.steps is not None and step % plan.steps == 0)
        metrics = self._evaluate() if evaluated else None
        if evaluated:
            self.progress = self.progress.ranked(self._rank(metrics))
            if plan.patience is not None and metrics and self.progress.stale >= plan.patience:
                self.progress = replace(self.progress, finished=True)
                if self.rank == 0 and step < self.job.steps:
                    self.job.journal.note.remote(early_stopped=step)
        every = self.config.checkpoint_steps
        if evaluated or stop or leaving or (every is not None and step % every == 0):
            self._checkpoint(metrics, evaluated)
        return stop or self.progress.finished

    def _rank(self, metrics: Mapping[str, Any] | None) -> float:
        """What the best checkpoint has the most of; without a validation part the last one is the best."""
        if metrics is None:
            return float(self.progress.step)
        return rank_of(self.config.metric, metrics, self.job.own)

    def _evaluate(self) -> dict[str, Any] | None:
        """The metrics of the validation part; None when there is none."""
        with self.strategy.evaluating() as network:
            return self._judge(network)

    def _judge(self, network: Network, head: bool = False) -> dict[str, Any] | None:
        runtime = TorchRuntime(network, self.info.pad_token_id, precision=self.precision)
        classifier = Classifier(runtime, self.job.encoding, self.info)
        return self.evaluator.validate(classifier, self.progress.step, self._epoch, head)

    def _log(self, result: StepResult, rate: float, rows_per_second: float) -> None:
        if self.rank == 0:
            self.job.journal.event.remote(
                {
                    "kind": "step",
                    "step": self.progress.step,
                    "epoch": (self.progress.step - 1) // self.job.steps_per_epoch + 1,
                    "loss": round(result.loss, 6),
                    "learning_rate": rate,
                    "grad_norm": round(result.grad_norm, 6),
                    "rows": result.rows,
                    "rows_per_second": round(rows_per_second, 2),
                }
            )

    def _checkpoint(self, metrics: Mapping[str, Any] | None, evaluated: bool) -> None:
        """Hand Ray Train a checkpoint, with the rank that chooses the best of those that were evaluated."""
        rank = self._rank(metrics) if evaluated else UNRANKED
        report = {
            "step": self.progress.step,
            "evaluated": evaluated,
            "rank_by": rank if math.isfinite(rank) else UNRANKED,
        }
        weights, optimizer = self.strategy.weights(), self.strategy.optimizer_state()
        if self.rank != 0:
            ray.train.report(report)
            return
        with tempfile.TemporaryDirectory() as folder:
            info = self.info.model_copy(update={"metrics": {"validation": dict(metrics)} if metrics else {}})
            save_artifact(Path(folder) / "artifact", self.network, self.tokenizer, info, weights or None)
            save_state(Path(folder), optimizer, self.progress)
            ray.train.report(report, checkpoint=ray.train.Checkpoint.from_directory(folder))
