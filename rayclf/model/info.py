"""``rayclf.json``: what an artifact is, and whether its files are whole. Light to import: no model code.

rayclf.json        what it is: label space, thresholds, temperature, backbone, metrics, hashes
head.safetensors   the head
tokenizer.json …   the tokenizer
adapter/           LoRA in PEFT's layout, the backbone being elsewhere; or
backbone/          the whole tuned backbone in Transformers' layout; neither where only the head was trained
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from tokenizers import Tokenizer

from rayclf import storage
from rayclf.data.texts import TextSource
from rayclf.data.tokens import Encoding
from rayclf.errors import ArtifactError, UserError, one_line
from rayclf.labels import LabelSpace

INFO, TOKENIZER = "rayclf.json", "tokenizer.json"
PLACES = ((), ("artifact",), ("best", "artifact"))  # below an artifact, a run, a search
_VERSIONED = ("rayclf", "torch", "transformers", "tokenizers", "peft")


class BackboneRef(BaseModel):
    """Which backbone is under the head, and its weights by hash."""

    model_config = ConfigDict(extra="forbid")

    id: str
    revision: str | None
    model_type: str
    sha256: dict[str, str]

    @property
    def name(self) -> str:
        """What clients are told: a hub id as it is, of a folder its own name and not where it lies on the machine."""
        return Path(self.id).name if Path(self.id).is_absolute() else self.id


class ArtifactInfo(BaseModel):
    """``rayclf.json``."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    label_space: dict[str, Any]
    method: Literal["head"] = "head"
    tuning: Literal["full", "lora", "head"]
    quantization: Literal["nf4", "int8"] | None = None  # of the backbone that the adapter was trained on
    pooling: Literal["cls", "mean", "last"]
    template: str
    max_length: int = Field(ge=1)
    pad_token_id: int = Field(ge=0)
    thresholds: list[float]
    temperature: float = Field(1.0, gt=0)
    reads: TextSource
    separator: str = "|"  # of several labels in one cell of labelled data
    chat_template: str | None = None
    special_tokens: dict[str, str] = {}
    backbone: BackboneRef
    metrics: dict[str, dict[str, Any]] = {}
    created: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = Field(default_factory=lambda: {n: importlib.metadata.version(n) for n in _VERSIONED})
    files: dict[str, str] = {}

    @property
    def space(self) -> LabelSpace:
        """The label space."""
        return LabelSpace.from_json(self.label_space)

    @model_validator(mode="after")
    def _only_adapters_stand_on_quantised_weights(self) -> ArtifactInfo:
        if self.quantization and self.tuning != "lora":
            raise ValueError("only an adapter can stand on a quantised backbone")
        return self

    @model_validator(mode="after")
    def _chat_has_a_template(self) -> ArtifactInfo:
        if self.reads.form == "messages" and self.chat_template is None:
            raise ValueError("reads chat messages and has no chat template")
        return self

    def encoding(self, tokenizer_json: str) -> Encoding:
        """How this classifier makes tokens of texts, with the tokenizer that lies beside it."""
        return Encoding(tokenizer_json, self.template, self.max_length, self.chat_template, self.special_tokens)


def find_artifact(path: str | os.PathLike[str], fingerprint: str | None = None) -> Path:
    """The local folder of the artifact at ``path``, which may also be a run folder, a search or a checkpoint.

    One in object storage (s3://, gs://, abfs://) is fetched to the local disk, once; see
    :func:`rayclf.model.artifact_cache.fetch_artifact`, also for ``fingerprint``. Raises ArtifactError if there is none,
    StorageError when the storage cannot be used.
    """
    if is_remote(path):
        from rayclf.model.artifact_cache import fetch_artifact

        return fetch_artifact(os.fspath(path), fingerprint)
    folder = storage.local_path(path, "artifact")
    for place in PLACES:
        candidate = folder.joinpath(*place)
        if (candidate / INFO).is_file():
            return candidate
    if not folder.exists():
        raise ArtifactError(f"{os.fspath(path)}: no such folder; give an artifact or a run folder")
    raise ArtifactError(f"{os.fspath(path)}: neither an artifact nor a finished run: no {INFO} in it")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether ``path`` is an address in object storage, which every node fetches from for itself."""
    return "://" in os.fspath(path) and not os.fspath(path).startswith("file://")


def read_info(folder: Path) -> ArtifactInfo:
    """Read ``rayclf.json``; raises ArtifactError when it is damaged or of a later format."""
    place = folder / INFO
    try:
        content = place.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{place}: damaged ({error})") from None
    return parse_info(content, str(place))


def parse_info(content: bytes, place: str) -> ArtifactInfo:
    """What the ``rayclf.json`` at ``place`` says; raises ArtifactError when it is damaged or of a later format."""
    try:
        info = ArtifactInfo.model_validate(json.loads(content))
        if len(info.thresholds) != len(info.space):
            raise ValueError("thresholds and labels differ in number")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{place}: damaged, or written by a later rayclf ({where}: {first['msg']})") from None
    except (ValueError, KeyError, TypeError, UserError) as error:
        raise ArtifactError(f"{place}: damaged ({one_line(error)})") from None
    return info


def write_info(folder: Path, info: ArtifactInfo) -> None:
    """Write ``rayclf.json`` last, when every other file is in place, with the hash of each."""
    names = sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file() and f.name != INFO)
    info = info.model_copy(update={"files": {name: storage.sha256(folder / name) for name in names}})
    storage.write_json(folder / INFO, info.model_dump())


def verify(folder: Path, info: ArtifactInfo, shown: str | None = None) -> None:
    """Compare every file with its recorded SHA-256; raises ArtifactError that names the first that differs.

    ``shown`` is the folder's name in messages, where it is a copy of another.
    """
    for name, expected in info.files.items():
        file, place = folder / name, f"{shown or folder}/{name}"
        if not file.is_file():
            raise ArtifactError(f"{place}: missing; the artifact is not whole, copy it again")
        if storage.sha256(file) != expected:
            raise ArtifactError(f"{place}: damaged, its SHA-256 is not the recorded one; copy the artifact again")


def load_encoding(folder: Path, info: ArtifactInfo) -> Encoding:
    """How the classifier in ``folder`` makes tokens of texts; raises ArtifactError when its tokenizer is damaged."""
    # The file itself, not what a tokenizer class of some version of Transformers would make of it.
    try:
        tokenizer_json = (folder / TOKENIZER).read_text(encoding="utf-8")
        Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # tokenizers raises plain ones
        raise ArtifactError(f"{folder / TOKENIZER}: does not hold a tokenizer ({one_line(error)})") from None
    return info.encoding(tokenizer_json)
