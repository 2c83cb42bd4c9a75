"""Which column holds the text and which the labels, by name first and then by content."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

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
LABEL_NAMES = (
    "label", "labels", "completion", "expected_output", "category", "categories", "class", "target", "intent", "topic",
    "topics", "tag", "tags", "subject", "sentiment", "coarse_label",
)  # fmt: skip
_NUMBER = r"^\s*([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)?\s*$"  # or blank, as CSV writes null
_SAMPLE = 10_000


def find_columns(table: pa.Table, place: str, text: str | None = None, label: str | None = None) -> tuple[str, str]:
    """The names of the text and the label column of a table of ``string`` columns.

    Given names are checked, missing ones found. Raises DataError for a name that is not there or a text column of
    numbers, AmbiguousColumn when several columns would do.
    """
    names = table.column_names
    for flag, name in (("--text", text), ("--label", label)):
        if name is not None and name not in names:
            raise DataError(f"{place}: no column '{name}'; {flag} must name one of: {', '.join(names)}")
    if text is None and label is None:
        pairs = [pair for pair in PAIRS if set(pair) <= set(names)]
        if len(pairs) == 1:  # of several none is taken, so that the choice is asked for below
            text, label = pairs[0]
    if text is None:
        text = find_text(table, place, exclude=(label,) if label else ())
    if label is None:
        label = _find_label(table, place, text)
    if text == label:
        raise DataError(f"{place}: column '{text}' cannot be both the text and the label; set --text and --label")
    check_text(table, place, text)
    return text, label


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


def _find_label(table: pa.Table, place: str, text: str) -> str:
    others = [name for name in table.column_names if name != text]
    if not others:
        raise DataError(f"{place}: no column besides '{text}' to hold the labels")
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
