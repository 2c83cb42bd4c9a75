"""How long texts are in tokens, and what each ``model.max_length`` would cut off.

Every text is tokenized up to 100,000 rows; of more, a sample is kept that the rows' hashes choose, so that the same
input always gives the same numbers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayclf.config import ModelConfig
from rayclf.data.extract import identities
from rayclf.data.texts import TextSource
from rayclf.data.tokens import Encoding, row_texts
from rayclf.errors import BackboneError, one_line
from rayclf.model.backbone_files import DEFAULT_BACKBONE, fetch

MOST_ROWS = 100_000
_BINS = 40
_BATCH = 1024  # texts tokenized at once: what the tokenizer makes of a long text takes 100 bytes a token
_NO_LIMIT = 2**31
_ALL = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Truncation:
    """What ``max_length`` tokens cut: the share of texts that are longer, and of all tokens that are lost."""

    max_length: int
    texts: float
    tokens: float


@dataclass(frozen=True)
class TokenLengths:
    """Token lengths of ``rows`` texts, special tokens and template included; ``sampled`` when these are not all.

    ``counts[i]`` texts have from ``edges[i]`` to below ``edges[i + 1]`` tokens, ``beyond`` are longer than the last.
    ``limit`` is the most that the backbone takes, None where it names none.
    """

    backbone: str
    rows: int
    sampled: bool
    mean: float
    median: int
    p95: int
    p99: int
    max: int
    limit: int | None
    truncation: tuple[Truncation, ...]
    edges: tuple[int, ...]
    counts: tuple[int, ...]
    beyond: int


def load_encoding(backbone: str | None, model: ModelConfig, reads: TextSource) -> tuple[str, Encoding]:
    """The backbone's name and its encoding with ``max_length`` at what the backbone takes; raises BackboneError.

    Of a hub id only the tokenizer's files are fetched: who looks at data need not wait for the weights.
    """
    from transformers import AutoConfig

    from rayclf.model.backbone import load_tokenizer, text_encoding

    name = backbone or DEFAULT_BACKBONE
    folder = fetch(backbone, model.revision, weights=False)
    tokenizer = load_tokenizer(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # whatever Transformers makes of a config that it does not like
        reason = one_line(error)
        raise BackboneError(f"--backbone {name}: its config cannot be loaded ({reason})") from None
    encoding = text_encoding(tokenizer, config, model.model_copy(update={"max_length": _NO_LIMIT}), reads)
    return name, encoding


class LengthSample:
    """Collects the token lengths of rows as they pass, at most ``most`` of them.

    Rows are taken whose hash is below a bound, which is halved whenever they become too many: a uniform sample in one
    pass over an input of unknown length. Text and row number make the hash, so that a text which stands a million
    times is neither all nor nothing of the sample.
    """

    def __init__(self, backbone: str, encoding: Encoding, most: int = MOST_ROWS) -> None:
        self._backbone = backbone
        self._limit = encoding.max_length
        self._encoding = dataclasses.replace(encoding, max_length=_NO_LIMIT)
        self._most = most
        self._bound = _ALL
        self._done = 0
        self._hashes: npt.NDArray[np.uint64] = np.empty(0, np.uint64)
        self._rows: npt.NDArray[np.int64] = np.empty(0, np.int64)
        self._lengths: npt.NDArray[np.int32] = np.empty(0, np.int32)

    def add(self, table: pa.Table) -> None:
        """Look at the next rows of the input, extracted ones with ``problem``; those that have one are left out."""
        numbers = np.arange(self._done, self._done + table.num_rows)
        self._done += table.num_rows
        hashes = _mixed(identities(table), numbers)
        usable = table["problem"].is_null().to_numpy()
        wanted = usable & (hashes <= self._bound)
        # Bound first, tokens after: of a large table only what stays is tokenized.
        while len(self._hashes) + np.count_nonzero(wanted) > self._most:
            self._bound //= np.uint64(2)
            self._keep(self._hashes <= self._bound)
            wanted &= hashes <= self._bound
        chosen = np.flatnonzero(wanted)
        for start in range(0, len(chosen), _BATCH):
            self._tokenize(table, chosen[start : start + _BATCH], hashes, numbers)

    def _tokenize(
        self,
        table: pa.Table,
        chosen: npt.NDArray[np.int64],
        hashes: npt.NDArray[np.uint64],
        numbers: npt.NDArray[np.int64],
    ) -> None:
        texts = row_texts(table.take(pa.array(chosen)))
        refused = self._encoding.problems(texts)
        good = [position for position in range(len(texts)) if position not in refused]
        lengths = [len(ids) for ids in self._encoding([texts[position] for position in good])]
        chosen = chosen[good]
        self._hashes = np.concatenate([self._hashes, hashes[chosen]])
        self._rows = np.concatenate([self._rows, numbers[chosen]])
        self._lengths = np.concatenate([self._lengths, np.array(lengths, np.int32)])

    def _keep(self, which: npt.NDArray[np.bool_]) -> None:
        self._hashes, self._rows, self._lengths = self._hashes[which], self._rows[which], self._lengths[which]

    def result(self, usable: npt.NDArray[np.int64], max_length: int) -> TokenLengths | None:
        """The lengths of the rows of which ``usable [n]`` is 1, with ``max_length`` among the truncations; None for no
        rows."""
        lengths = self._lengths[usable[self._rows] > 0]
        if not len(lengths):
            return None
        limit = self._limit if self._limit < 2**24 else None  # tokenizers write 1e30 for "none"
        return summarize(lengths, self._backbone, limit, max_length, sampled=bool(self._bound != _ALL))


def summarize(
    lengths: npt.NDArray[np.int32], backbone: str, limit: int | None, max_length: int, *, sampled: bool
) -> TokenLengths:
    """Lengths ``[n]``, n > 0, as numbers and a histogram."""
    median, p95, p99 = (int(np.percentile(lengths, p, method="inverted_cdf")) for p in (50, 95, 99))
    longest, total = int(lengths.max()), int(lengths.sum(dtype=np.int64))
    # A few very long texts would leave all others in the first bin.
    end = longest + 1 if longest < 2 * p99 else round(1.2 * p99) + 1
    width = max(1, -(-end // _BINS))
    edges = np.arange(0, end + width, width)
    counts, _ = np.histogram(lengths[lengths < edges[-1]], bins=edges)
    cuts = sorted({min(max_length, limit or max_length), *_powers(limit, longest), *([limit] if limit else [])})
    return TokenLengths(
        backbone, len(lengths), sampled, total / len(lengths), median, p95, p99, longest, limit,
        tuple(
            Truncation(
                cut, float((lengths > cut).mean()), int(np.maximum(lengths - cut, 0).sum(dtype=np.int64)) / total
            )
            for cut in cuts
        ),
        tuple(edges.tolist()), tuple(counts.tolist()), int(np.count_nonzero(lengths >= edges[-1])),
    )  # fmt: skip


def _powers(limit: int | None, longest: int) -> list[int]:
    """128, 256, … up to the limit, or to the first that cuts nothing where the limit is far beyond."""
    cuts = [128, 256, 512, 1024]
    while cuts[-1] < longest:
        cuts.append(2 * cuts[-1])
    return [cut for cut in cuts if limit is None or cut <= limit]


def _mixed(identity: npt.NDArray[np.uint64], row: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014) over hash and row number; it wraps around by design."""
    x = identity + row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
