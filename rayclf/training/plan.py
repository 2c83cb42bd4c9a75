"""What is decided before any worker starts: the settings, the rows of each part, the model, the workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rayclf import storage
from rayclf.cluster import gpu_memory, require_cpus
from rayclf.config import Config, TrainConfig
from rayclf.config_file import load_config
from rayclf.data.dataset import RECORD, Dataset, is_dataset
from rayclf.data.part_hints import find_part_hints
from rayclf.data.plan import Plan, plan_parts, survey_test
from rayclf.data.prepare import write_dataset
from rayclf.data.survey import Survey
from rayclf.data.texts import TextSource
from rayclf.data.tokens import Encoding
from rayclf.data.weights import LabelCounts
from rayclf.errors import ConfigError, ResourceError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.model.backbone_files import DEFAULT_BACKBONE, fetch, weight_hashes
from rayclf.model.info import ArtifactInfo, BackboneRef
from rayclf.training.head_rows import head_rows


def resolve_settings(
    config: Config | str | Path | None, backbone: str | None, overrides: Mapping[str, Any] | None
) -> Config:
    """The configuration of a job; raises ConfigError for what no job could mean."""
    laid_over = dict(overrides or {})
    if backbone is not None:
        laid_over["model.backbone"] = backbone
    if isinstance(config, Config):
        settings = config
        if laid_over:
            raise ConfigError("overrides and backbone go with a YAML file or none, not with a Config; set its fields")
    else:
        settings = load_config(config, laid_over)
    check_offload(settings.train)
    return settings


def check_offload(train: TrainConfig) -> None:
    """Raise ConfigError for ``train.offload`` under a strategy that has none, or has not that."""
    offload, strategy = train.offload, train.strategy
    able = {"none": strategy, "optimizer": "deepspeed", "parameters": "deepspeed-zero3"}[offload]
    if strategy != "auto" and not strategy.startswith(able):
        hint = "; there is also train.offload: optimizer" if strategy.startswith("deepspeed") else ""
        wanted = able if offload == "parameters" else "deepspeed-zero2 or deepspeed-zero3"
        raise ConfigError(f"train.offload: {offload} needs train.strategy {wanted}, not {strategy}{hint}")


def check_loss(loss: str, kind: ProblemType) -> None:
    """Raise ConfigError for a loss that the problem type has not."""
    if loss == "asymmetric" and kind is ProblemType.MULTICLASS:
        raise ConfigError("train.loss: asymmetric weighs negatives of each label; multiclass takes auto or focal")


@dataclass(frozen=True)
class TrainingData:
    """What is trained on, before a byte is written: a data set prepared earlier, or the plan of one."""

    source: Dataset | Plan
    test: Survey | None
    space: LabelSpace
    reads: TextSource
    label: str
    separator: str
    counts: Mapping[str, LabelCounts]
    read: int
    quarantined: int
    hints: tuple[str, ...]

    def event(self) -> dict[str, Any]:
        """What those who follow a job are told of its data."""
        names = ("reads", "label", "space", "read", "quarantined", "hints")
        return {"kind": "data", "parts": self.counts, **{name: getattr(self, name) for name in names}}

    def write(self, folder: Path, settings: Config, on_event: Callable[[dict[str, Any]], None]) -> Dataset:
        """The data set that workers read: the earlier one, whose record is copied into ``folder``, or one written there
        now."""
        if isinstance(self.source, Plan):
            return write_dataset(folder, self.source, settings, test=self.test, hints=self.hints, on_event=on_event)
        if os.fspath(folder) != self.source.folder:  # as it is when an interrupted run goes on
            storage.write_json(folder / RECORD, self.source.record.model_dump())
        return self.source


def find_data(data: str | os.PathLike[str], test: str | os.PathLike[str] | None, settings: Config) -> TrainingData:
    """Look at what is to be trained on; raises UserError for data that cannot be used."""
    if is_dataset(data):
        if test is not None:
            raise ConfigError("--test: prepared data has its parts already; give --test to rayclf data prepare")
        dataset = Dataset.open(data)
        record = dataset.record
        counts = {part: dataset.counts(part) for part in record.parts}
        return TrainingData(
            dataset,
            None,
            dataset.space,
            record.reads,
            record.label,
            record.settings.get("separator", settings.data.separator),
            counts,
            record.read,
            record.quarantined,
            tuple(record.hints),
        )
    plan = plan_parts(data, settings, held_out=test is None)
    found = plan.found
    given = survey_test(test, found, settings) if test is not None else None
    counts = {part: plan.counts(part) for part in plan.names}
    if given is not None:
        counts["test"] = LabelCounts(len(given.kept), *given.label_counts(given.usable))
    extract, separator = found.extract, settings.data.separator
    assert extract.label is not None
    surveys = [found, given] if given else [found]
    read, set_aside = sum(len(one.codes) for one in surveys), sum(len(one.rejects) for one in surveys)
    hints = find_part_hints(plan, given)
    return TrainingData(
        plan, given, found.space, extract.reads, extract.label, separator, counts, read, set_aside, hints
    )


@dataclass(frozen=True)
class ModelPlan:
    """What is decided about the model before any worker starts."""

    info: ArtifactInfo
    encoding: Encoding
    learning_rate: float
    head_rows: int
    parameters: int
    tuning: Literal["full", "lora", "qlora", "head"]


def plan_model(settings: Config, found: TrainingData) -> ModelPlan:
    """Look at the backbone without its weights: what it is, how to tune it, how to read text for it."""
    from rayclf.model.backbone import describe, load_tokenizer, text_encoding
    from rayclf.training.optimizer import default_learning_rate

    model, space = settings.model, found.space
    source = fetch(model.backbone, model.revision)
    about = describe(source)
    tokenizer = load_tokenizer(source)
    encoding = text_encoding(tokenizer, about.config, model, found.reads)
    by_kind: Literal["full", "lora"] = "lora" if about.layout.pooling == "last" else "full"
    tuning = model.method if model.method != "auto" else by_kind
    local = Path(model.backbone).expanduser() if model.backbone else None
    name = str(local.resolve()) if local and local.is_dir() else model.backbone or DEFAULT_BACKBONE
    fixed = settings.labels.threshold if settings.labels.threshold != "tuned" else 0.5
    threshold = fixed if space.problem_type is not ProblemType.MULTICLASS else 0.0
    info = ArtifactInfo(
        label_space=space.to_json(),
        tuning="lora" if tuning == "qlora" else tuning,
        quantization=model.quantization if tuning == "qlora" else None,
        pooling=about.layout.pooling,
        template=model.template,
        max_length=encoding.max_length,
        pad_token_id=tokenizer.pad_token_id,
        thresholds=[threshold] * len(space),
        temperature=1.0,
        reads=found.reads,
        separator=found.separator,
        chat_template=encoding.chat_template,
        special_tokens=dict(encoding.special_tokens),
        backbone=BackboneRef(
            id=name, revision=model.revision, model_type=about.config.model_type, sha256=weight_hashes(source)
        ),
    )
    rate = settings.train.learning_rate or default_learning_rate(tuning, about.parameters)
    return ModelPlan(info, encoding, rate, head_rows(settings.train, tuning), about.parameters, tuning)


@dataclass(frozen=True)
class Cluster:
    """What the job takes of the cluster: workers, or the fewest and the most, a GPU each or none, and how they share
    the work."""

    workers: int | tuple[int, int]
    gpu: bool
    strategy: str

    @property
    def most(self) -> int:
        """The most workers that there can be at once."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]


def choose_workers(settings: Config, plan: ModelPlan) -> Cluster:
    """How many training processes the connected cluster will run, and how; raises ResourceError when it cannot."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    workers = settings.resources.workers or max(1, gpus)
    fewest, most = (workers, workers) if isinstance(workers, int) else workers
    if gpus and fewest > gpus:
        raise ResourceError(f"resources.workers: {fewest} workers want a GPU each and the cluster has {gpus}; lower it")
    if most > settings.train.batch_size:
        raise ConfigError(
            f"train.batch_size: {settings.train.batch_size} rows cannot be shared by {most} workers; raise it"
        )
    require_cpus(
        fewest * settings.resources.cpus_per_worker + 1,
        f"training with {fewest} worker(s), and one CPU for reading,",
        "lower resources.workers or resources.cpus_per_worker",
    )
    strategy: str = settings.train.strategy
    if strategy == "single" and most > 1:
        raise ConfigError(f"train.strategy: single is for one worker and resources.workers is {most}; choose ddp")
    if strategy == "auto":
        strategy = _least_strategy(settings, plan, fewest, most, gpus > 0)
    return Cluster(workers, gpus > 0, strategy)


def _least_strategy(settings: Config, plan: ModelPlan, fewest: int, most: int, gpu: bool) -> str:
    """The strategy that ``auto`` stands for; on CPUs workers share one memory, and DeepSpeed only adds to it."""
    if not gpu:
        return "single" if most == 1 else "ddp"
    from rayclf.training.cost.memory import Case, resolve_strategy
    from rayclf.training.cost.parameters import read_shape

    model = settings.model.model_copy(update={"method": plan.tuning})
    labels = len(plan.info.space)
    shape = read_shape(fetch(model.backbone, model.revision), labels, model.lora if "lora" in plan.tuning else None)
    precision = "fp32" if settings.train.precision == "fp32" else "bf16"
    config = settings.model_copy(update={"model": model})
    return resolve_strategy(Case(config, shape, labels, fewest, precision, cpu=False), gpu_memory())
