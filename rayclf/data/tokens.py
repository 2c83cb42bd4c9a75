"""Texts to token ids: one function for training, evaluation, scoring and serving."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import tokenizers
from tokenizers import Tokenizer

from rayclf.errors import DataError, one_line
from rayclf.labels import Floats

Ids = npt.NDArray[np.int32]
Text = str | tuple[str, str]
_NO_LIMIT = 2**31
_CHARACTERS, _SPARE = 16, 64  # a token of prose has four characters, hardly ever sixteen
_SOME_DAY = datetime(2024, 7, 26)  # which Llama's own template takes where it cannot know the day


@dataclass(frozen=True)
class Encoding:
    """How text becomes tokens: a fast tokenizer as its JSON, the template, and the most tokens kept of a text.

    With ``chat_template`` (Jinja, as tokenizers carry it) every text is the JSON of chat messages; the template may
    use ``special_tokens`` such as ``bos_token``, and writes all that are needed. It is plain data, so that it travels
    to Ray tasks, and needs no Transformers, which takes seconds to import, but for chat.
    """

    tokenizer_json: str
    template: str
    max_length: int
    chat_template: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __call__(self, texts: Sequence[Text]) -> list[Ids]:
        """Token ids of each text, special tokens included, cut to ``max_length``; never empty for a non-empty text.

        Of a text the end is cut, but never what ``template`` has after it. A pair is put together by the tokenizer's
        own template for pairs, ``template`` left aside, and cut where it is longest (``longest_first``). Raises
        DataError for chat messages that the chat template refuses.
        """
        if self.chat_template is not None:
            texts = [self.render_chat(text) for text in texts if isinstance(text, str)]
        before, after = self.template.split("{text}")
        special = self.chat_template is None
        whole = [f"{before}{self._head(text)}{after}" if isinstance(text, str) else text for text in texts]
        if not after or not all(isinstance(text, str) for text in texts):
            tokenizer = _tokenizer(self.tokenizer_json, self.max_length)
            return [_ids(encoded) for encoded in tokenizer.encode_batch_fast(whole, add_special_tokens=special)]
        tokenizer = _tokenizer(self.tokenizer_json, _NO_LIMIT)
        found = [_ids(encoded) for encoded in tokenizer.encode_batch_fast(whole, add_special_tokens=special)]
        long = [row for row, ids in enumerate(found) if len(ids) > self.max_length]
        located = tokenizer.encode_batch([whole[row] for row in long], add_special_tokens=special)
        for row, encoded in zip(long, located, strict=True):
            found[row] = _cut_text(encoded, len(whole[row]) - len(after), self.max_length)
        return found

    def _head(self, text: str) -> str:
        """So much of a very long text that the tokens which are kept are the same: a book is not tokenized for the
        first 512 tokens of it.

        The head must give more tokens than are kept, with some to spare: the last ones before the cut can be others.
        """
        size = _CHARACTERS * self.max_length
        if len(text) <= 4 * size or self.max_length >= _NO_LIMIT:
            return text
        tokens = _tokenizer(self.tokenizer_json, _NO_LIMIT).encode(text[:size], add_special_tokens=False)
        return text[:size] if len(tokens) >= self.max_length + _SPARE else text

    def lengths(self, texts: Sequence[Text]) -> list[int]:
        """Tokens of each text before it is cut, special ones included."""
        return [len(ids) for ids in replace(self, max_length=_NO_LIMIT)(texts)]

    def render_chat(self, messages: str) -> str:
        """The JSON of chat messages as the text that the chat template makes of it; DataError where it refuses.

        The environment is Transformers' sandbox, since templates are code from the hub. The day is a fixed one:
        a template that writes today's date would give the same row another probability tomorrow.
        """
        import jinja2
        from transformers.utils.chat_template_utils import _compile_jinja_template

        try:
            compiled = _compile_jinja_template(self.chat_template)
            text: str = compiled.render(
                **self.special_tokens,
                messages=json.loads(messages),
                tools=None,
                documents=None,
                add_generation_prompt=False,
                strftime_now=_SOME_DAY.strftime,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            reason = one_line(error)
            raise DataError(f"the backbone's chat template refuses the messages ({reason})") from None
        if not text.strip():
            raise DataError("the backbone's chat template makes an empty text of the messages")
        return text

    def problems(self, texts: Sequence[Text]) -> dict[int, str]:
        """By position, why a text cannot be tokenized: only the messages that a chat template refuses."""
        found = {}
        for position, text in enumerate(texts if self.chat_template is not None else ()):
            try:
                self.render_chat(str(text))
            except DataError as error:
                found[position] = str(error)
        return found


@dataclass(frozen=True)
class TokenBatch:
    """Tokenized training rows: their numbers ``[n]``, token ids a row, and dense targets ``[n, K]``."""

    rows: npt.NDArray[np.int64]
    input_ids: list[Ids]
    targets: Floats


@lru_cache(maxsize=32)  # many models of one server may each have their own
def _tokenizer(tokenizer_json: str, max_length: int) -> Tokenizer:
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if max_length < _NO_LIMIT:
        tokenizer.enable_truncation(max_length, strategy="longest_first")
    return tokenizer


def _ids(encoded: tokenizers.Encoding) -> Ids:
    return np.asarray(encoded.ids, dtype=np.int32)


def _cut_text(encoded: tokenizers.Encoding, end: int, max_length: int) -> Ids:
    """The ids without as many of the last tokens of the text, which ends at character ``end``, as are too many.

    Kept are the tokens that reach beyond ``end`` and the special ones around. They are found in the whole tokenized
    text rather than tokenized apart, so that a text which fits and one that is cut end in the same tokens.
    """
    ids = _ids(encoded)
    own = [position for position, sequence in enumerate(encoded.sequence_ids) if sequence is not None]
    offsets = encoded.offsets
    tail = next((i for i in own if offsets[i][1] > end or offsets[i][0] >= end), own[-1] + 1 if own else 0)
    kept = max(0, max_length - (len(ids) - tail))
    return np.concatenate([ids[:kept], ids[tail:]])[:max_length]


def tokenize_rows(rows: pa.Table, encoding: Encoding) -> pa.Table:
    """Canonical rows with ``input_ids: list<int32>`` in the place of ``text`` and ``text_pair``."""
    ids = encoding(row_texts(rows))
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int32)
    values = np.concatenate(ids) if ids else np.empty(0, np.int32)
    column = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int32()))
    used = [name for name in ("text", "text_pair") if name in rows.column_names]
    return rows.drop_columns(used).append_column("input_ids", column)


def row_texts(rows: pa.Table) -> list[Text]:
    """What each of the canonical rows gives the encoding: its text, or both where there is a ``text_pair``."""
    texts: list[Text] = rows["text"].to_pylist()
    if "text_pair" not in rows.column_names:
        return texts
    return list(zip(rows["text"].to_pylist(), rows["text_pair"].to_pylist(), strict=True))
