"""A scoring job: what every process that works on it must know, and what of it must not change on a resume."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import pyarrow as pa

from rayclf import storage
from rayclf.data.texts import TextSource
from rayclf.errors import ConfigError
from rayclf.model.info import INFO, ArtifactInfo, find_artifact, is_remote, read_info, verify
from rayclf.model.runtime import Precision, RuntimeName
from rayclf.scoring.columns import choose_reads, kept_columns
from rayclf.scoring.units import InputFile
from rayclf.storage_errors import shown

Layout = Literal["list", "columns", "none"]
TooLong = Literal["cut", "error"]


class ScoreOptions(TypedDict, total=False):
    """What is read of the input and what is said of it.

    What the classifier was trained on is read: a column, a pair, a template's columns or chat messages. ``text`` names
    another column for it (of a pair the first, of a template its rendered text). ``columns`` are the input columns to
    keep, all when unset. ``probabilities`` are written in label order as one ``list`` (the default), as one of the
    ``columns`` a label, or ``none``; ``top_k`` adds the names and probabilities of so many labels. ``threshold`` takes
    the place of the artifact's own. ``partition_by_label`` writes Hive folders. A text of more tokens than the
    classifier reads is cut, or under ``too_long="error"`` not scored. ``precision`` and ``runtime`` are those of
    :meth:`rayclf.Classifier.load`. Artifacts in ``also`` score the same rows in the same pass, into columns that begin
    with the name of their folder.
    """

    also: Sequence[str | os.PathLike[str]]
    text: str | None
    columns: Sequence[str] | None
    probabilities: Layout
    top_k: int | None
    threshold: float | None
    partition_by_label: bool
    too_long: TooLong
    precision: Precision
    runtime: RuntimeName


@dataclass(frozen=True)
class Model:
    """One artifact of a job: where it is, and the SHA-256 of its ``rayclf.json``, which holds the hashes of all its
    files; ``prefix`` stands before the names of its columns, and is empty for the first one."""

    place: str
    fingerprint: str
    prefix: str
    info: ArtifactInfo

    @property
    def folder(self) -> Path:
        """Its folder on this node, which fetches it where ``place`` is an address in object storage."""
        return find_artifact(self.place, self.fingerprint)


@dataclass(frozen=True)
class Columns:
    """What the output holds beside ``id``, ``label``, ``score``, ``labels`` and ``error``.

    ``kept`` input columns; ``probabilities`` in label order as one list, as one column a label, or none; with ``top_k``
    the names and probabilities of the most probable labels. ``by_label`` parts the files into folders ``label=…``.
    """

    kept: pa.Schema
    probabilities: Layout = "list"
    top_k: int | None = None
    by_label: bool = False


@dataclass(frozen=True)
class ScoreJob:
    """What the processes of a job share. ``rows`` are all of the input's, scored before or not; ``threads`` are those
    of one replica."""

    models: tuple[Model, ...]
    output: str
    reads: TextSource
    columns: Columns
    precision: Precision = "auto"
    runtime: RuntimeName = "auto"
    threshold: float | None = None
    too_long: TooLong = "cut"
    rows: int = 0
    threads: int = 1

    def settings(self) -> dict[str, Any]:
        """What must be the same for an output to be one job's, under the names of the flags; for the plan."""
        columns = self.columns
        return {
            "artifact": self.models[0].fingerprint,
            "also": {model.prefix: model.fingerprint for model in self.models[1:]},
            "text": self.reads.model_dump(exclude_none=True),
            "columns": {field.name: str(field.type) for field in columns.kept},
            "probabilities": columns.probabilities,
            "top_k": columns.top_k,
            "partition_by_label": columns.by_label,
            "precision": self.precision,
            "runtime": self.runtime,
            "threshold": self.threshold,
            "too_long": self.too_long,
        }


def make_job(
    artifact: str | os.PathLike[str], files: Sequence[InputFile], output: str, options: ScoreOptions
) -> ScoreJob:
    """The job of scoring ``files`` into ``output``; raises UserError for what does not go together."""
    _check(options)
    models = load_models(artifact, options.get("also", ()))
    text, trained_on = options.get("text"), models[0].info.reads
    reads = trained_on.read_from(text) if text else choose_reads(files, trained_on)
    columns = Columns(
        kept_columns(files, reads, options.get("columns")),
        options.get("probabilities", "list"),
        options.get("top_k"),
        options.get("partition_by_label", False),
    )
    return ScoreJob(
        models,
        output,
        reads,
        columns,
        options.get("precision", "auto"),
        options.get("runtime", "auto"),
        options.get("threshold"),
        options.get("too_long", "cut"),
        sum(file.rows for file in files),
    )


def _check(options: ScoreOptions) -> None:
    for name, choices in (("probabilities", Layout), ("too_long", TooLong)):
        value = options.get(name)
        if value is not None and value not in get_args(choices):
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} {value}: must be one of {', '.join(get_args(choices))}")
    top_k, threshold = options.get("top_k"), options.get("threshold")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"--top-k {top_k}: must be at least 1")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold {threshold}: must be a probability, from 0 to 1")


def load_models(artifact: str | os.PathLike[str], also: Sequence[str | os.PathLike[str]] = ()) -> tuple[Model, ...]:
    """The artifacts of a job, their files checked; raises ArtifactError, and ConfigError where they do not go together.

    Those after the first are named by their run's or artifact's folder. Each node fetches those in object storage for
    itself.
    """
    models = []
    for position, path in enumerate([artifact, *also]):
        folder = find_artifact(path)
        info = read_info(folder)
        verify(folder, info)
        name = folder.parent.name if folder.name == "artifact" else folder.name
        place = os.fspath(path) if is_remote(path) else str(folder)
        models.append(Model(place, storage.sha256(folder / INFO), f"{name}_" if position else "", info))
    first = models[0]
    for model in models[1:]:
        name = model.prefix[:-1]
        if model.info.reads.form != first.info.reads.form:
            raise ConfigError(
                f"--also {shown(model.place)}: reads {model.info.reads.form}, the first artifact "
                f"{first.info.reads.form}; score with it apart"
            )
        if sum(other.prefix == model.prefix for other in models) > 1:
            raise ConfigError(f"--also: two artifacts are called '{name}'; rename the folder of one")
    return tuple(models)
