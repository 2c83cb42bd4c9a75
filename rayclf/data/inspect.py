"""What is in a labelled input, before anything is trained: columns, labels, rows that cannot be used, lengths.

The input is read once and never held. Unlike training, an inspection goes on where rows or labels cannot be used: to
show them is its purpose. Nothing it returns holds a text.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayclf.config import Config
from rayclf.config_file import load_config
from rayclf.data.duplicates import Duplicates, Place, SharedTexts, find_duplicates, find_shared, place_of
from rayclf.data.extract import hash_texts
from rayclf.data.hints import find_hints
from rayclf.data.label_facts import Imbalance, LabelCount, Labels, SpaceGuess, count_labels
from rayclf.data.label_files import read_labels
from rayclf.data.plan import survey_test
from rayclf.data.profile import Column, profile_columns
from rayclf.data.scripts import count_scripts
from rayclf.data.sources import find_sources
from rayclf.data.survey import Survey, first_rows, plan_extract, survey
from rayclf.data.token_lengths import LengthSample, TokenLengths, load_encoding
from rayclf.errors import BackboneError

__all__ = ["Column", "Imbalance", "Inspection", "LabelCount", "Labels", "inspect"]
_SCRIPT_ROWS = 10_000
_LINE = re.compile(r"^line [0-9]+: ")  # where a reader says it; rows are told apart from reasons


@dataclass(frozen=True)
class Reason:
    """Why ``rows`` rows cannot be used; ``example`` is the first of them."""

    reason: str
    rows: int
    example: Place


@dataclass(frozen=True)
class Rows:
    """``read`` rows are ``kept`` and ``quarantined`` ones; ``reasons`` has the most frequent first."""

    read: int
    kept: int
    quarantined: int
    reasons: tuple[Reason, ...]


@dataclass(frozen=True)
class TestRows:
    """The rows of a test input, and the texts it shares with the inspected one."""

    place: str
    rows: Rows
    shared: SharedTexts


@dataclass(frozen=True)
class Inspection:
    """All that :func:`inspect` finds. ``to_json`` has the same names and is what ``--json`` prints.

    ``columns`` are known by the first ``sampled_rows`` rows, ``scripts`` (shares of letters) by as many texts.
    ``problem_type`` is None where the labels span no label space; ``problem_type_why`` then says why not.
    ``tokens`` is None where there is no tokenizer to be had; ``tokens_note`` then says why.
    """

    place: str
    files: int
    reads: str
    label: str
    sampled_rows: int
    columns: tuple[Column, ...]
    rows: Rows
    problem_type: str | None
    problem_type_why: str
    labels: Labels
    tokens: TokenLengths | None
    tokens_note: str | None
    duplicates: Duplicates
    test: TestRows | None
    scripts: dict[str, float]
    hints: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain lists, objects, texts and numbers."""
        return asdict(self)


def inspect(
    data: str | os.PathLike[str],
    *,
    test: str | os.PathLike[str] | None = None,
    backbone: str | None = None,
    config: Config | str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    on_rows: Callable[[int], None] = lambda done: None,
) -> Inspection:
    """Look at labelled input: a file, a folder or a glob; ``test`` is such a one to compare with.

    ``backbone`` has the tokenizer that lengths are measured with, all-MiniLM-L6-v2 when neither it nor
    ``model.backbone`` is given; the default one is done without where it is not to be had, with a note. Of ``config``
    and ``overrides``, as for :func:`rayclf.train`, ``data``, ``labels`` and ``model`` matter. ``on_rows`` gets the
    number of rows read so far. Raises UserError for input that cannot be read at all, AmbiguousColumn where text or
    label must be chosen, and BackboneError for a backbone that was asked for.
    """
    settings = config if isinstance(config, Config) else load_config(config, overrides or {})
    # Whatever is wrong with rows is shown, and nothing is split, so no limit and no column to split by.
    shown_all = {"max_rejected": 1.0, "on_error": "quarantine", "split": "random", "split_column": None}
    settings = settings.model_copy(update={"data": settings.data.model_copy(update=shown_all)})
    declared = read_labels(settings.labels.file) if settings.labels.file else ()
    sources = find_sources(data)
    sample = first_rows(sources)
    extract = plan_extract(sources, settings.data)
    backbone = backbone or settings.model.backbone
    lengths, note = None, None
    try:
        lengths = LengthSample(*load_encoding(backbone, settings.model, extract.reads))
    except BackboneError as error:
        if backbone is not None:
            raise
        note = f"token lengths are left out: {error}"
    seen = _Seen(lengths, given_ids="id" in sample.column_names, messages=extract.reads.messages is not None)
    guess = SpaceGuess()

    def look(table: pa.Table) -> None:
        seen.look(table)
        on_rows(seen.rows)

    found = survey(
        data, settings.data, declared=declared, problem_type=settings.labels.problem_type, look=look, infer=guess
    )
    tokens = None
    if lengths is not None:
        tokens = lengths.result(found.usable, settings.model.max_length)
        note = None if tokens else "token lengths are left out: there is no row that can be used"
    labels = count_labels(found, guess, declared)
    columns = profile_columns(sample, extract, settings.data)
    tested = survey_test(test, found, settings) if test is not None else None
    return Inspection(
        place=found.place,
        files=len(found.sources),
        reads=str(found.extract.reads),
        label=found.extract.label or "",
        sampled_rows=sample.num_rows,
        columns=columns,
        rows=_rows(found),
        problem_type=guess.problem_type,
        problem_type_why=guess.why,
        labels=labels,
        tokens=tokens,
        tokens_note=note,
        duplicates=find_duplicates(found),
        test=TestRows(tested.place, _rows(tested), find_shared(found, tested)) if tested else None,
        scripts=seen.script_shares(),
        hints=find_hints(found, columns, labels, seen.repeated_ids()),
    )


class _Seen:
    """What is taken from the tables as they pass: token lengths, scripts, ids."""

    def __init__(self, lengths: LengthSample | None, *, given_ids: bool, messages: bool) -> None:
        self.rows = 0
        self._lengths, self._given_ids, self._messages = lengths, given_ids, messages
        self._scripts: Counter[str] = Counter()
        self._ids: list[npt.NDArray[np.uint64]] = []

    def look(self, table: pa.Table) -> None:
        if self._lengths is not None:
            self._lengths.add(table)
        if self.rows < _SCRIPT_ROWS:
            part = table.slice(0, _SCRIPT_ROWS - self.rows)
            for name in ("text", "text_pair"):
                if name in part.column_names:
                    texts = part[name].filter(part["problem"].is_null()).to_pylist()
                    self._scripts += count_scripts(map(_spoken, texts) if self._messages else texts)
        if self._given_ids:
            self._ids.append(hash_texts(table["id"].to_pylist()))
        self.rows += table.num_rows

    def repeated_ids(self) -> int:
        """Rows whose id another row had before; 0 where the input gives none."""
        return self.rows - len(np.unique(np.concatenate(self._ids))) if self._ids else 0

    def script_shares(self) -> dict[str, float]:
        letters = self._scripts.total()
        return {script: count / letters for script, count in self._scripts.most_common()}


def _spoken(messages: str) -> str:
    """What chat messages say, without the English names of their JSON."""
    import json

    return "\n".join(message["content"] for message in json.loads(messages))


def _rows(found: Survey) -> Rows:
    reasons: Counter[str] = Counter()
    first: dict[str, int] = {}
    for row, told in found.rejects.items():
        reason = _LINE.sub("", told)
        reasons[reason] += 1
        first.setdefault(reason, row)
    return Rows(
        read=len(found.codes),
        kept=len(found.codes) - len(found.rejects),
        quarantined=len(found.rejects),
        reasons=tuple(Reason(reason, rows, place_of(found, first[reason])) for reason, rows in reasons.most_common()),
    )
