"""Which column holds the text and which the labels, by name first and then by content."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from rayclf.config import DataConfig
from rayclf.data.texts import TextSource
from rayclf.errors import AmbiguousColumn, DataError

# The forms that published data sets and hosted platforms use; a pair decides both columns at once.
PAIRS = (("prompt", "completion"), ("input", "expected_output"), ("text", "label"), ("text", "labels"))
TEXT_NAMES = (
    "text",
    "prompt",
    "input",
    "sentence",
    "question",
    "content",
    "message",
    "utterance",
    "document",
    "body",
    "review",
)
CHAT_NAMES = ("messages", "conversation", "conversations")
LABEL_NAMES = (
    "label", "labels", "completion", "expected_output", "category", "categories", "class", "target", "intent", "topic",
    "topics", "tag", "tags", "subject", "sentiment", "coarse_label", "emotion", "emotions",
)  # fmt: skip
_NUMBER = r"^\s*([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)?\s*$"  # or blank, as CSV writes null
_SAMPLE = 10_000


def find_columns(
    table: pa.Table, place: str, config: DataConfig, prefer: TextSource | None = None
) -> tuple[TextSource, str]:
    """What to read as text, and the label column, of a table of ``string`` columns: the first rows of an input.

    What ``config`` names is checked, the rest found; ``prefer`` is taken as the text where the table has its columns
    and ``config`` names none. Raises DataError for a name that is not there or a text column of numbers,
    AmbiguousColumn when several columns would do.
    """
    names = table.column_names
    reads, label = _configured(config), config.label
    if reads is None and prefer is not None and set(prefer.columns) <= set(names):
        reads = prefer
    if label is not None and label not in names:
        raise DataError(f"{place}: no column '{label}'; --label must name one of: {', '.join(names)}")
    if reads is not None:
        reads.check(names, place)
    if reads is None and label is None:
        pairs = [pair for pair in PAIRS if set(pair) <= set(names)]
        if len(pairs) == 1:  # of several none is taken, so that the choice is asked for below
            reads, label = TextSource(text=pairs[0][0]), pairs[0][1]
    if reads is None:
        chat = [name for name in names if name.lower() in CHAT_NAMES]
        if len(chat) == 1 and not any(name.lower() in TEXT_NAMES for name in names):
            reads = TextSource(messages=chat[0])
        else:
            reads = TextSource(text=find_text(table, place, exclude=(label,) if label else ()))
    if label is None:
        label = find_label(table, place, exclude=reads.columns)
    if label in reads.columns:
        raise DataError(
            f"{place}: column '{label}' cannot be both the text and the label; set {reads.flag} and --label"
        )
    if reads.text is not None:
        check_text(table, place, reads.text)
    return reads, label


def _configured(config: DataConfig) -> TextSource | None:
    given = {name: getattr(config, name) for name in ("text", "text_pair", "template", "messages")}
    return TextSource(**given) if any(given.values()) else None


def find_text(table: pa.Table, place: str, exclude: Sequence[str] = ()) -> str:
    """The one column that can be the text; see :func:`find_columns` for what it raises."""
    names = [name for name in table.column_names if name not in exclude]
    known = [name for name in names if name.lower() in TEXT_NAMES]
    if not known:
        words = [name for name in names if name.lower() not in LABEL_NAMES and not _is_numeric(table[name])]
        known = [name for name in words if _mean_words(table[name]) >= 3] or words
    if len(known) == 1:
        return known[0]
    if not known:
        raise DataError(f"{place}: no column of text among: {', '.join(table.column_names)}; name it with --text")
    raise AmbiguousColumn(
        f"{place}: several columns could be the text: {', '.join(known)}; choose one with --text", "--text", known
    )


def find_label(table: pa.Table, place: str, exclude: Sequence[str] = ()) -> str:
    """The one column that can hold the labels; see :func:`find_columns` for what it raises."""
    others = [name for name in table.column_names if name not in exclude]
    if not others:
        read = ", ".join(f"'{name}'" for name in exclude)
        raise DataError(f"{place}: no column besides {read} to hold the labels")
    known = [name for name in others if name.lower() in LABEL_NAMES]
    if not known:
        # A label repeats: a column in which nearly every value is another one is an id or a second text.
        known = [name for name in others if _repeats(table[name])] or [n for n in others if _repeats_once(table[n])]
    if len(known) == 1:
        return known[0]
    if not known:
        raise DataError(
            f"{place}: no column repeats its values as labels do; name it with --label: {', '.join(others)}"
        )
    raise AmbiguousColumn(
        f"{place}: several columns could be the label: {', '.join(known)}; choose one with --label", "--label", known
    )


def likely_separator(column: pa.ChunkedArray) -> str | None:
    """``;`` or ``,`` where the cells of a label column look like several short names parted by it, else None.

    They do when a fifth of the cells hold the mark and the names between the marks repeat more than the cells do.
    """
    cells = [cell for cell in pc.drop_null(column.slice(0, _SAMPLE)).to_pylist() if cell.strip()]
    if any(cell.lstrip()[:1] in ("{", "[") or "|" in cell for cell in cells):
        return None
    for mark in (";", ","):
        parts = [part.strip() for cell in cells for part in cell.split(mark)]
        several = sum(mark in cell for cell in cells)
        short = all(parts) and max((len(part.split()) for part in parts), default=9) <= 6
        repeat = len(set(parts)) * len(cells) < len(set(cells)) * len(parts)
        if short and repeat and 5 * several >= len(cells):
            return mark
    return None


def check_text(table: pa.Table, place: str, name: str) -> None:
    """Raise DataError when the column is made of numbers alone, or holds nothing."""
    if _is_blank(table[name]):
        raise DataError(f"{place}: text column '{name}' is empty; choose another with --text")
    if _is_numeric(table[name]):
        raise DataError(f"{place}: text column '{name}' holds numbers, not text; choose another with --text")


def _is_blank(column: pa.ChunkedArray) -> bool:
    return pc.all(pc.equal(pc.utf8_trim_whitespace(column), "")).as_py() is not False


def _is_numeric(column: pa.ChunkedArray) -> bool:
    return not _is_blank(column) and bool(pc.all(pc.match_substring_regex(column, _NUMBER)).as_py())


def _mean_words(column: pa.ChunkedArray) -> float:
    sample = pc.drop_null(column.slice(0, _SAMPLE))
    return (pc.mean(pc.count_substring_regex(sample, r"\S+")).as_py() or 0.0) if len(sample) else 0.0


def _repeats(column: pa.ChunkedArray) -> bool:
    sample = column.slice(0, _SAMPLE)
    return pc.count_distinct(sample).as_py() <= max(2, len(sample) // 2)


def _repeats_once(column: pa.ChunkedArray) -> bool:
    return pc.count_distinct(column).as_py() < len(column)
