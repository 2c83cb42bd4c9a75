"""The columns of an input and what each is good for, by its first rows."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from rayclf.config import DataConfig
from rayclf.data.columns import LABEL_NAMES, PAIRS, TEXT_NAMES
from rayclf.data.extract import Extract

_NUMBER = r"^\s*([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)?\s*$"
_TIME_NAME = re.compile(r"(^|_)(date|time|timestamp|datetime|year|created|updated|published)(_|$|at$)", re.IGNORECASE)
_GROUP_NAME = re.compile(
    r"(^|_)(id|user|author|customer|client|account|session|thread|group|patient|speaker|source|document|url)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Column:
    """One column over the ``rows`` that were looked at: its role, why it is thought to have it, and its values."""

    name: str
    role: str
    why: str
    rows: int
    nulls: int
    distinct: int
    numeric: bool


def profile_columns(sample: pa.Table, extract: Extract, config: DataConfig) -> tuple[Column, ...]:
    """Each column of a table of ``string`` columns, the first rows of an input that is read as ``extract`` says.

    Roles: ``text``, ``text pair``, ``messages``, ``label``, ``id``, and for what is not read ``time``, ``group`` (to
    split by) and ``other``.
    """
    return tuple(_profile(name, sample[name], extract, config, sample.column_names) for name in sample.column_names)


def _profile(
    name: str, column: pa.ChunkedArray, extract: Extract, config: DataConfig, names: Collection[str]
) -> Column:
    blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
    values = column.filter(pc.invert(blank))
    distinct = pc.count_distinct(values).as_py()
    numeric = bool(len(values)) and bool(pc.all(pc.match_substring_regex(values, _NUMBER)).as_py())
    role, why = _role(name, values, distinct, numeric, extract, config, names)
    return Column(name, role, why, len(column), len(column) - len(values), distinct, numeric)


def _role(
    name: str,
    values: pa.ChunkedArray,
    distinct: int,
    numeric: bool,
    extract: Extract,
    config: DataConfig,
    names: Collection[str],
) -> tuple[str, str]:
    reads = extract.reads
    pair = next((p for p in PAIRS if set(p) <= set(names) and name in p and extract.label == p[1]), None)
    if name in reads.columns:
        if name == reads.text_pair:
            return "text pair", "named by --text-pair"
        if reads.template is not None:
            return "text", "named in the template"
        if reads.messages is not None:
            return "messages", "named by --messages" if config.messages else "its name is that of chat messages"
        return "text", _why("--text" if config.text else None, name, TEXT_NAMES, pair, "the one column of words")
    if name == extract.label:
        return "label", _why("--label" if config.label else None, name, LABEL_NAMES, pair, "its values repeat")
    if name == "id":
        return "id", "its name"
    if not len(values):
        return "other", "every value is empty"
    if _is_time(name, values, numeric):
        return "time", "holds dates; can be split by (--split time)"
    if 1 < distinct < len(values) and (_GROUP_NAME.search(name) or (not numeric and distinct <= len(values) // 2)):
        return "group", "its values repeat; can be split by (--split group)"
    if distinct == len(values) and _GROUP_NAME.search(name):
        return "id", "its values differ and its name is that of an id; only a column named 'id' is taken for one"
    return "other", "every value is the same" if distinct == 1 else "not used"


def _why(flag: str | None, name: str, known: Collection[str], pair: tuple[str, str] | None, content: str) -> str:
    if flag is not None:
        return f"named by {flag}"
    if pair is not None:
        return f"columns '{pair[0]}' and '{pair[1]}' go together"
    return "its name" if name.lower() in known else content


def _is_time(name: str, values: pa.ChunkedArray, numeric: bool) -> bool:
    if numeric:
        return bool(_TIME_NAME.search(name))
    sample = values.slice(0, 1000).to_pylist()
    return sum(map(_is_date, sample)) >= 0.95 * len(sample)


def _is_date(value: str) -> bool:
    try:
        datetime.fromisoformat(value.strip())
    except ValueError:
        return False
    return True
