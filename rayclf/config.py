"""One YAML a job: the models behind its sections, the same fields behind ``--set section.field=value``.

    data:  {text: body, label: topic}
    model: {backbone: Qwen/Qwen3-0.6B, method: lora}
    train: {epochs: 2, learning_rate: 2.0e-4}

Every field has a default; an unknown one is an error that names the nearest known field.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rayclf.errors import ConfigError
from rayclf.labels import ProblemType

Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Where the text and labels are, and how rows are parted."""

    text: str | None = Field(None, description="Column of the text; found by name and content when unset.")
    label: str | None = Field(None, description="Column of the labels; found by name and content when unset.")
    separator: str = Field("|", min_length=1, description="What parts several labels in one cell.")
    test: Share = Field(0.1, description="Share of the rows held out for the final test when no test file is given.")
    validation: Share = Field(
        0.1, description="Share of the rows that choose the best checkpoint; 0 keeps the last one."
    )


class LabelsConfig(Section):
    """The label space."""

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
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{file}: must hold sections such as 'data:' and 'train:'")
        tree = loaded or {}
    pairs = overrides.items() if isinstance(overrides, Mapping) else map(_split_override, overrides)
    for path, value in pairs:
        _assign(tree, path, value)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, file)) from None
    if config.model.template.count("{text}") != 1:
        raise ConfigError("model.template: must contain {text} exactly once")
    return config


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``2e-5`` as a string; people who write a learning rate mean the number."""


_FLOAT = r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"
_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT), list("-+0123456789"))


def _split_override(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {text}: must read section.field=value, such as train.epochs=3")
    try:
        return path.strip(), yaml.load(value, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError:
        return path.strip(), value


def _assign(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        child = tree.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"{path}: '{parent}' is not a section")
        tree = child
    tree[last] = value


def _explain(error: ValidationError, file: str | Path | None) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    where = f"{file}: " if file is not None else ""
    if first["type"] == "extra_forbidden":
        section: type[BaseModel] = Config
        for part in first["loc"][:-1]:
            section = section.model_fields[str(part)].annotation  # type: ignore[assignment]  # a section, by its place
        known = list(section.model_fields)
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{where}unknown key '{path}'; {hint}"
    return f"{where}{path}: {first['msg'][0].lower()}{first['msg'][1:]} (it is {first['input']!r})"
