"""One YAML a job: the models behind its sections, the same fields behind ``--set section.field=value``.

    data:  {text: body, label: topic}
    model: {backbone: Qwen/Qwen3-0.6B, method: lora}
    train: {epochs: 2, learning_rate: 2.0e-4}

Every field has a default; an unknown one is an error (see :mod:`rayclf.config_file`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from rayclf.labels import ProblemType

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[str(info.field_name)].annotation
        if value is None and is_section(wanted):
            return {}  # a section whose fields are all commented out
        if isinstance(value, dict) and not is_section(wanted):
            return {str(name): item for name, item in value.items()}  # labels may be called 0 and 1
        if isinstance(value, bool) and wanted is not bool:
            # YAML reads yes, no, on and off as booleans, and pydantic takes those for 1 and 0.
            raise PydanticCustomError("not_a_flag", "Input should not be true or false")
        return value


def is_section(kind: Any) -> bool:
    """Whether a field's type is a section of its own."""
    return isinstance(kind, type) and issubclass(kind, Section)


class DataConfig(Section):
    """What is read of each row, which rows are kept, and how they are parted."""

    text: str | None = Field(None, description="Column of the text; found by name and content when unset.")
    text_pair: str | None = Field(None, description="Column of the second text of a pair, such as a hypothesis.")
    template: str | None = Field(None, description="Text made of several columns: 'Title: {title}\\n{body}'.")
    messages: str | None = Field(None, description="Column of chat messages, rendered by the backbone's chat template.")
    label: str | None = Field(None, description="Column of the labels; found by name and content when unset.")
    separator: str = Field("|", min_length=1, description="What parts several labels in one cell.")
    test: Share = Field(0.1, description="Share of the rows held out for the final test when no test file is given.")
    validation: Share = Field(
        0.1, description="Share of the rows that choose the best checkpoint; 0 keeps the last one."
    )
    split: Literal["stratified", "random", "group", "time"] = Field(
        "stratified", description="How parts are chosen; group and time go by data.split_column."
    )
    split_column: str | None = Field(None, description="Column whose values stay in one part, or that holds the time.")
    shuffle: bool = Field(True, description="Mix the training rows; false keeps them in the order of the input.")
    rebalance: dict[str, Positive] | None = Field(
        None, description="Shares or row counts of labels in the training part: {cat: 0.3, dog: 0.7} or {cat: 300}."
    )
    downsample: Positive | None = Field(
        None, description="Keep this share (to 1) or number of the training rows, chosen by row."
    )
    on_error: Literal["quarantine", "fail"] = Field(
        "quarantine", description="Set rows aside that cannot be used, or stop at the first."
    )
    max_rejected: Share = Field(0.01, description="Share of the rows that may be set aside before the job stops.")


class LabelsConfig(Section):
    """The label space."""

    file: str | None = Field(None, description="Labels declared apart from the data: TSV, JSON, YAML or SKOS.")
    problem_type: ProblemType | None = Field(None, description="binary, multiclass or multilabel; inferred when unset.")
    threshold: Literal["tuned"] | Probability = Field(
        "tuned",
        description="Probability from which a binary or multilabel label holds; tuned: by label on validation rows.",
    )


class LoraConfig(Section):
    """Low-rank adapters through PEFT."""

    r: int = Field(16, ge=1, description="Rank of the update matrices.")
    alpha: float = Field(32, gt=0, description="Scale of the update: alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: str | list[str] = Field("all-linear", description="Names of the adapted layers.")
    dora: bool = Field(False, description="Tune size and direction of the weights apart (DoRA, arXiv:2402.09353).")
    rslora: bool = Field(False, description="Scale by alpha / sqrt(r) (rsLoRA, arXiv:2312.03732).")


class ModelConfig(Section):
    """The backbone, how it is tuned, and what it reads."""

    backbone: str | None = Field(None, description="Local folder or hub id; all-MiniLM-L6-v2 when unset.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    method: Literal["auto", "full", "lora", "qlora", "head"] = Field(
        "auto",
        description="auto: LoRA on a decoder, full on an encoder; qlora: LoRA on quantised weights; head: it alone.",
    )
    quantization: Literal["nf4", "int8"] = Field(
        "nf4", description="Of qlora: 4-bit NormalFloat, quantised doubly, or 8-bit."
    )
    max_length: int = Field(256, ge=4, description="Tokens kept of each text.")
    template: str = Field("{text}", description="What the model reads; must contain {text} once.")
    lora: LoraConfig = LoraConfig()


class TrainConfig(Section):
    """Optimisation."""

    epochs: int = Field(3, ge=1, description="Passes over the training rows.")
    batch_size: int = Field(32, ge=1, description="Rows of one optimiser step, over all workers.")
    micro_batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens of one forward pass, hence the accumulation; 2048 on a CPU, 8192 on a GPU.",
    )
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; by method and backbone size when unset.")
    head_rows: int | None = Field(
        None,
        ge=0,
        description="Rows the head is fitted to before the first step; 5,120, or 0 where it is all that is trained.",
    )
    warmup: Share = Field(0.1, description="Share of the steps in which the rate rises; then it falls linearly to 0.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the backbone and head; a few epochs do as well without.")
    weight_decay: float = Field(0.01, ge=0, description="Of matrices; biases, norms and embeddings are never decayed.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device computes in it."
    )
    strategy: Literal["auto", "single", "ddp", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"] = Field(
        "auto", description="How workers share the training; auto: single, ddp, or the first ZeRO stage that fits."
    )
    offload: Literal["none", "optimizer", "parameters"] = Field(
        "none", description="What DeepSpeed keeps in CPU memory; parameters (ZeRO 3) takes the optimizer along."
    )
    batching: Literal["auto", "padded", "packed"] = Field(
        "auto", description="Rows of like length padded, or one behind the other; auto: packed where the backbone can."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations again in the backward pass: less memory, a third more time."
    )
    loss: Literal["auto", "focal", "asymmetric"] = Field(
        "auto", description="auto: cross-entropy, a binary one for each label of binary and multilabel tasks."
    )
    label_smoothing: Share = Field(0.0, description="Part of each target that is spread over the other answers.")
    focal_gamma: float = Field(2.0, ge=0, description="How much the focal loss plays down easy targets.")
    asymmetric_gamma: float = Field(4.0, ge=0, description="How much the asymmetric loss plays down easy negatives.")
    asymmetric_clip: Share = Field(0.05, description="Negatives of less than this probability have no asymmetric loss.")
    class_weights: Literal["none", "auto", "balanced"] | dict[str, Positive] = Field(
        "none", description="Weight of each label's loss: auto, balanced, or {name: weight}; others weigh 1."
    )
    seed: int = Field(17, ge=0, description="Of the split, the head, the row order and dropout.")
    metric: str = Field("f1_macro", description="Chooses the best checkpoint, on the validation rows.")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="Steps from one checkpoint to the next, besides that of each epoch."
    )
    keep_checkpoints: int = Field(1, ge=1, description="How many of the best checkpoints stay.")
    max_failures: int = Field(0, ge=0, description="How often dead workers are restarted from the last checkpoint.")


class EvaluationConfig(Section):
    """What is measured while training and after it."""

    baseline: bool = Field(True, description="Evaluate before the first step, and the fitted head alone.")
    steps: int | None = Field(None, ge=1, description="Steps from one evaluation to the next, besides each epoch's.")
    patience: int | None = Field(
        None, ge=1, description="Evaluations without a better train.metric after which training ends."
    )
    training_rows: int = Field(1000, ge=0, description="Training rows tested beside the test rows, for overfitting.")
    calibration: bool = Field(True, description="Fit the temperature on the validation rows.")
    resamples: int = Field(1000, ge=0, description="Bootstrap samples behind the confidence interval; 0 for none.")
    metrics: list[str] = Field([], description="Own metrics: file.py:function; see docs/how-to/own-metrics.md.")
    samples: int = Field(20, ge=0, description="Rows whose prediction is kept beside the expectation each time.")


class ResourcesConfig(Section):
    """What the job takes of the machine or cluster."""

    workers: Count | tuple[Count, Count] | None = Field(
        None, description="Training processes, or the fewest and the most: [1, 8]; one a GPU, else one, when unset."
    )
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that Ray reserves for each worker.")
    threads: int | None = Field(
        None, ge=1, description="Compute threads of a worker; the node's cores shared out when unset."
    )

    @field_validator("workers")
    @classmethod
    def _range(cls, value: int | tuple[int, int] | None) -> int | tuple[int, int] | None:
        if isinstance(value, tuple) and value[0] > value[1]:
            raise PydanticCustomError("no_range", "The fewest should come first")
        return value


class OutputConfig(Section):
    """The run folder."""

    overwrite: bool = Field(False, description="Replace an existing run.")
    texts: bool = Field(False, description="Put texts of rows into samples and the report's worst mistakes.")
    track: list[Literal["tensorboard", "mlflow"]] = Field([], description="Where else the metrics are written to.")


class Config(Section):
    """A whole job."""

    data: DataConfig = DataConfig()
    labels: LabelsConfig = LabelsConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    resources: ResourcesConfig = ResourcesConfig()
    output: OutputConfig = OutputConfig()
