"""What the text of a row is made of: a column, a pair of columns, a template over columns, or chat messages.

Training writes its :class:`TextSource` into the artifact, so that evaluation and scoring read rows the same way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, model_validator

from rayclf.data.formats import text_column
from rayclf.errors import ConfigError, DataError

Form = Literal["text", "pair", "messages"]
_NOT_MESSAGES = "not a list of chat messages"
_MARK = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True)
class RenderedTexts:
    """The texts of a table's rows, ``string`` each; ``problems`` says by row position what cannot be used, and why.

    ``text_pair`` is None but for pairs. The text of a row with a problem means nothing.
    """

    text: pa.ChunkedArray
    text_pair: pa.ChunkedArray | None
    problems: dict[int, str]


class TextSource(BaseModel):
    """Where a row's text comes from: one of ``text`` (with ``text_pair`` or not), ``template`` and ``messages``.

    Raises ConfigError when none or several are given, and for a template that cannot be read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = None
    text_pair: str | None = None
    template: str | None = None
    messages: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> TextSource:
        if sum(source is not None for source in (self.text, self.template, self.messages)) != 1:
            raise ConfigError("give exactly one of data.text, data.template and data.messages")
        if self.text_pair is not None and self.text is None:
            raise ConfigError("data.text_pair: goes with data.text, the first text of the pair; set it too")
        if self.text_pair is not None and self.text_pair == self.text:
            raise ConfigError(f"data.text_pair: column '{self.text}' cannot be both texts of a pair")
        if self.template is not None:
            parse_template(self.template)
        return self

    @property
    def form(self) -> Form:
        """What a classifier is given for each row: a ``text``, a ``pair`` of texts or chat ``messages``."""
        return "pair" if self.text_pair is not None else "messages" if self.messages is not None else "text"

    @property
    def flag(self) -> str:
        """The flag of the command line that names the column, or the first of them."""
        return "--template" if self.template is not None else "--text" if self.text is not None else "--messages"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        if self.template is not None:
            return tuple(dict.fromkeys(name for _, name in parse_template(self.template) if name is not None))
        return tuple(name for name in (self.text, self.text_pair, self.messages) if name is not None)

    def __str__(self) -> str:
        if self.template is not None:
            return f"template {self.template!r}"
        if self.text_pair is not None:
            return f"columns {self.text} and {self.text_pair}"
        return f"column {self.text}" if self.messages is None else f"chat messages in column {self.messages}"

    def read_from(self, column: str) -> TextSource:
        """The same form read from another column: the first text of pairs; in place of a template its rendered text."""
        if self.messages is not None:
            return TextSource(messages=column)
        return TextSource(text=column, text_pair=self.text_pair)

    def check(self, names: Sequence[str], place: str) -> None:
        """Raise DataError, naming file, column and candidates, when a column is not among ``names``."""
        for column in self.columns:
            if column not in names:
                flag = "--text-pair" if column == self.text_pair else self.flag
                raise DataError(f"{place}: no column '{column}'; {flag} must name one of: {', '.join(names)}")

    def render(self, table: pa.Table) -> RenderedTexts:
        """The texts of a table whose columns may be of any type; a row that has none is told in ``problems``.

        Null cells are empty in a template, whose text is empty when all its cells are. Chat messages stay JSON, brought
        to one form; the tokenizer's chat template comes later (:class:`rayclf.data.tokens.Encoding`). Raises DataError
        when a column is missing.
        """
        self.check(table.column_names, "the table")
        cells, problems = {}, dict[int, str]()
        for name in self.columns:
            where = "" if len(self.columns) == 1 else f"column '{name}': "
            cells[name], bad = _strings(table[name])
            problems |= {row: f"{where}not UTF-8" for row in bad if row not in problems}
        if self.messages is not None:
            return _render_messages(cells[self.messages], self.messages, problems)
        if self.template is not None:
            blank = reduce(pc.and_, (_blank(column) for column in cells.values()))
            _note(problems, blank, "empty text")
            return RenderedTexts(_fill(parse_template(self.template), cells), None, problems)
        for name, column in cells.items():
            where = "" if len(cells) == 1 else f"column '{name}': "
            _note(problems, pc.is_null(column), f"{where}no text")
            _note(problems, _blank(column), f"{where}empty text")
        return RenderedTexts(cells[self.columns[0]], cells.get(self.text_pair or ""), problems)


def _strings(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """A column as ``string``, and the positions of the cells that are not UTF-8, which become null."""
    chunks, bad, start = [], list[int](), 0
    for chunk in column.chunks:
        if pa.types.is_dictionary(chunk.type):
            chunk = chunk.dictionary_decode()
        try:
            binary = pa.types.is_binary(chunk.type) or pa.types.is_large_binary(chunk.type)
            chunks.append(chunk.cast(pa.string()) if binary else text_column(chunk))
        except pa.ArrowInvalid:
            values: list[str | None] = []
            for row, value in enumerate(chunk.cast(pa.large_binary()).to_pylist(), start):
                try:
                    values.append(None if value is None else value.decode())
                except UnicodeDecodeError:
                    values.append(None)
                    bad.append(row)
            chunks.append(pa.array(values, pa.string()))
        start += len(chunk)
    return pa.chunked_array(chunks, pa.string()), bad


def _blank(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)


def _note(problems: dict[int, str], where: pa.ChunkedArray, reason: str) -> None:
    for row in pc.indices_nonzero(where).to_pylist():
        problems.setdefault(row, reason)


# --- templates ------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def parse_template(template: str) -> tuple[tuple[str, str | None], ...]:
    r"""The parts of a template: ``(literal, column)`` each, the column None after the last.

    ``{name}`` is the column of exactly that name, ``{{`` and ``}}`` are braces; nothing else of Python's formats is
    known. The two characters ``\n``, all that a shell makes easy to type, are a line break. Raises ConfigError for a
    lone brace, a field without a name, and a template without any field.
    """
    parts, literal, start = list[tuple[str, str | None]](), "", 0
    for mark in _MARK.finditer(template):
        literal += template[start : mark.start()].replace("\\n", "\n")
        start = mark.end()
        if mark[1] is not None:
            if not mark[1].strip():
                raise ConfigError("--template: '{}' names no column; write {column}")
            parts.append((literal, mark[1]))
            literal = ""
        elif len(mark[0]) == 1:
            raise ConfigError(
                f"--template: a lone '{mark[0]}' at character {mark.start() + 1}; write {mark[0] * 2} for a brace"
            )
        else:
            literal += mark[0][0]
    if not parts:
        raise ConfigError("--template: has no field; name columns in it such as 'Title: {title}'")
    return (*parts, (literal + template[start:].replace("\\n", "\n"), None))


def _fill(parts: Sequence[tuple[str, str | None]], cells: Mapping[str, pa.ChunkedArray]) -> pa.ChunkedArray:
    pieces: list[Any] = []
    for literal, name in parts:
        pieces.append(pa.scalar(literal))
        if name is not None:
            pieces.append(cells[name])
    return pc.binary_join_element_wise(*pieces, pa.scalar(""), null_handling="replace", null_replacement="")


# --- chat messages --------------------------------------------------------------------------------------------------


def messages_json(value: Any) -> str:
    """Chat messages, as a list of objects or its JSON, in the one JSON form that is tokenized.

    Each has a ``role`` and a ``content`` of text; other fields stay, but for nulls, which Parquet fills in. Raises
    DataError, saying which message is wrong.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise DataError(_NOT_MESSAGES) from None
    if not isinstance(value, list | tuple) or not value or not all(isinstance(item, Mapping) for item in value):
        raise DataError(_NOT_MESSAGES)
    messages = []
    for number, item in enumerate(value, start=1):
        message = {name: field for name, field in item.items() if field is not None}
        message.setdefault("content", "")  # as it is where an assistant only calls tools
        if not isinstance(message.get("role"), str):
            raise DataError(f"message {number} has no role")
        if not isinstance(message["content"], str):
            raise DataError(f"the content of message {number} is not text")
        messages.append(message)
    if not any(message["content"].strip() for message in messages):
        raise DataError("empty text")
    try:
        found = json.dumps(messages, ensure_ascii=False)
        found.encode()
    except (TypeError, ValueError, RecursionError) as error:
        unicode = isinstance(error, UnicodeEncodeError)
        raise DataError("not valid Unicode" if unicode else _NOT_MESSAGES) from None
    return found


def _render_messages(column: pa.ChunkedArray, name: str, problems: dict[int, str]) -> RenderedTexts:
    texts: list[str | None] = []
    for row, cell in enumerate(column.to_pylist()):
        text = None
        if row not in problems:
            try:
                text = messages_json(cell) if cell is not None and cell.strip() else None
                if text is None:
                    problems[row] = "no text" if cell is None else "empty text"
            except DataError as error:
                reason = str(error)
                problems[row] = f"column '{name}' is {reason}" if reason == _NOT_MESSAGES else reason
        texts.append(text)
    return RenderedTexts(pa.chunked_array([pa.array(texts, pa.string())]), None, problems)
