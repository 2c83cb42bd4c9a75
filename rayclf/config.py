"""One YAML a job: the models behind its sections, the same fields behind ``--set section.field=value``.

    data:  {text: body, label: topic}
    model: {backbone: Qwen/Qwen3-0.6B, method: lora}
    train: {epochs: 2, learning_rate: 2.0e-4}

Every field has a default; an unknown one is an error that names the nearest known field.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from rayclf.errors import ConfigError
from rayclf.labels import ProblemType

Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        wanted = cls.model_fields[str(info.field_name)].annotation
        if value is None and _is_section(wanted):
            return {}  # a section whose fields are all commented out
        if isinstance(value, dict) and not _is_section(wanted):
            return {str(name): item for name, item in value.items()}  # labels may be called 0 and 1
        if isinstance(value, bool) and wanted is not bool:
            # YAML reads yes, no, on and off as booleans, and pydantic takes those for 1 and 0.
            raise PydanticCustomError("not_a_flag", "Input should not be true or false")
        return value


def _is_section(kind: Any) -> bool:
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
    threshold: float = Field(0.5, gt=0, lt=1, description="Probability from which a binary or multilabel label holds.")


class LoraConfig(Section):
    """Low-rank adapters through PEFT."""

    r: int = Field(16, ge=1, description="Rank of the update matrices.")
    alpha: float = Field(32, gt=0, description="Scale of the update: alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapters.")
    target_modules: str | list[str] = Field("all-linear", description="Names of the adapted layers.")


class ModelConfig(Section):
    """The backbone, how it is tuned, and what it reads."""

    backbone: str | None = Field(None, description="Local folder or hub id; all-MiniLM-L6-v2 when unset.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    method: Literal["auto", "full", "lora"] = Field("auto", description="auto: LoRA on a decoder, full on an encoder.")
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
        description="Padded tokens of one forward pass, hence the accumulation; 512 on a CPU, 8192 on a GPU.",
    )
    learning_rate: float | None = Field(None, gt=0, description="Peak rate; by method and backbone size when unset.")
    warmup: Share = Field(0.1, description="Share of the steps in which the rate rises; then it falls linearly to 0.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Of the backbone and head; a few epochs do as well without.")
    weight_decay: float = Field(0.01, ge=0, description="Of matrices; biases and norms are never decayed.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the device computes in it."
    )
    class_weights: Literal["none", "auto", "balanced"] | dict[str, Positive] = Field(
        "none", description="Weight of each label's loss: auto, balanced, or {name: weight}; others weigh 1."
    )
    seed: int = Field(17, ge=0, description="Of the split, the head, the row order and dropout.")
    metric: str = Field("f1_macro", description="Chooses the best checkpoint, on the validation rows.")
    keep_checkpoints: int = Field(1, ge=1, description="How many of the best checkpoints stay.")
    max_failures: int = Field(0, ge=0, description="How often dead workers are restarted from the last checkpoint.")


class ResourcesConfig(Section):
    """What the job takes of the machine or cluster."""

    workers: int | None = Field(None, ge=1, description="Training processes; one a GPU, else one, when unset.")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that Ray reserves for each worker.")
    threads: int | None = Field(
        None, ge=1, description="Compute threads of a worker; the node's cores shared out when unset."
    )


class OutputConfig(Section):
    """The run folder."""

    overwrite: bool = Field(False, description="Replace an existing run.")


class Config(Section):
    """A whole job."""

    data: DataConfig = DataConfig()
    labels: LabelsConfig = LabelsConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    resources: ResourcesConfig = ResourcesConfig()
    output: OutputConfig = OutputConfig()


def load_config(file: str | Path | None = None, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Config:
    """The configuration of a YAML file with ``overrides`` laid over it.

    ``overrides`` are ``section.field`` to value, or the strings ``section.field=value`` of ``--set``, whose values
    are read as YAML. Raises ConfigError that names the field and, for an unknown one, the nearest known.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            loaded = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  # a SafeLoader
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read ({error.strerror}); check --config") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2024-13-45 is a ValueError
            raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{file}: must hold sections such as 'data:' and 'train:'")
        tree = loaded or {}
    pairs = dict(overrides if isinstance(overrides, Mapping) else map(parse_override, overrides))
    for path, value in pairs.items():
        _assign(tree, path, value)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, file, pairs)) from None
    if config.model.template.count("{text}") != 1:
        raise ConfigError("model.template: must contain {text} exactly once")
    return config


class _Loader(yaml.SafeLoader):
    """YAML lets a key stand twice and keeps the last, so that the fields of the first ``train:`` would be lost.

    It also reads ``2e-5`` as a string, which is left so: the field's type makes it the number, and a revision
    ``12e5`` stays what it is.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; raises ConstructorError for a key that stands twice."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


def parse_override(text: str) -> tuple[str, Any]:
    """``section.field=value`` as path and value, read as YAML or as it stands; raises ConfigError without ``=``."""
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path:
        raise ConfigError(f"--set {text}: must read section.field=value, such as train.epochs=3")
    # Where text is asked for, what is typed is meant as it stands: in YAML {text} is a mapping, yes a boolean, | a
    # block and " #1" a comment.
    if _takes_text(path) and value.strip()[:1] not in ("'", '"') and value not in ("", "~", "null"):
        return path, value.strip() or value
    try:
        return path, yaml.load(value, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        return path, value


def _takes_text(path: str) -> bool:
    wanted: Any = Config
    for part in path.split("."):
        field = wanted.model_fields.get(part) if _is_section(wanted) else None
        wanted = field.annotation if field else None
    return wanted in (str, str | None)


def _assign(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        child = tree.get(parent)
        if child is not None and not isinstance(child, dict):
            raise ConfigError(f"{path}: '{parent}' is not a section")
        tree[parent] = child = dict(child or {})
        tree = child
    tree[last] = value


def _explain(error: ValidationError, file: str | Path | None, overridden: Collection[str]) -> str:
    first = error.errors()[0]
    section: Any = Config
    places: list[str] = []
    for part in map(str, first["loc"]):
        places.append(part)
        field = section.model_fields.get(part)
        if field is None or not _is_section(field.annotation):
            break  # what follows tells which branch of the field's type failed
        section = field.annotation
    path = ".".join(places)
    where = f"{file}: " if file is not None and path not in overridden else ""
    if first["type"] == "extra_forbidden":
        known = list(section.model_fields)
        near = difflib.get_close_matches(places[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{where}unknown key '{path}'; {hint}"
    value = repr(first["input"])
    value = value if len(value) <= 80 else f"{value[:80]}…"
    return f"{where}{path}: {first['msg'][0].lower()}{first['msg'][1:]} (it is {value})"
