"""Canonical rows to the training workers through Ray Data: tokenized on the way, every row once an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import torch
from ray.data.collate_fn import ArrowBatchCollateFn
from ray.train import DataConfig
from torch import Tensor

from rayclf.data.dataset import Dataset
from rayclf.data.tokens import Encoding, TokenBatch, tokenize_rows
from rayclf.labels import dense_targets

_BLOCK_ROWS = 2048
_SHUFFLE_ROWS = 32_768  # tokenized rows of 100 tokens: 13 MB


def training_stream(dataset: Dataset, encoding: Encoding, workers: int) -> ray.data.Dataset:
    """The training part as a dataset of ``row`` (its number in the part), ``input_ids``, ``positive`` and ``unknown``.

    Rows were mixed when they were written, so each worker gets all labels; each epoch mixes them again in a window
    (see :func:`epoch_batches`). Reading and tokenizing run in Ray tasks while training goes on.
    """
    rows = dataset.rows["train"]
    count = workers * math.ceil(rows / (workers * _BLOCK_ROWS))
    bounds = [round(rows * i / count) for i in range(count + 1)]
    slices = [{"start": start, "stop": stop} for start, stop in pairwise(bounds) if stop > start]
    return ray.data.from_items(slices, override_num_blocks=len(slices)).map_batches(
        _read_slice, batch_size=1, fn_kwargs={"folder": dataset.folder, "encoding": encoding}
    )


@lru_cache(maxsize=2)
def _open(folder: str) -> Dataset:
    return Dataset.open(folder)


def _read_slice(batch: dict[str, Any], folder: str, encoding: Encoding) -> pa.Table:
    start, stop = int(batch["start"][0]), int(batch["stop"][0])
    rows = _open(folder).read("train", start, stop).drop_columns(["id"])
    return tokenize_rows(rows.append_column("row", pa.array(np.arange(start, stop))), encoding)


class EveryRow(DataConfig):  # type: ignore[misc]  # Ray's class is untyped
    """Shards that together hold every row.

    Ray Train's own DataConfig splits with ``equal=True``, which drops rows until the shards are of one size. The
    training step weighs uneven shards correctly, so none needs to go. Order is kept, so that a seed fixes the shards.
    """

    def configure(self, datasets: dict[str, Any], world_size: int, *_: Any, **__: Any) -> list[dict[str, Any]]:
        """The datasets of each worker by name; called by Ray Train when a group of workers starts."""
        shards: list[dict[str, Any]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            dataset = dataset.copy(dataset)
            dataset.context.execution_options = self.default_ingest_options()
            dataset.context.execution_options.preserve_order = True
            one = world_size == 1  # which needs no process of its own to split the rows
            parts = [dataset.iterator()] if one else dataset.streaming_split(world_size, equal=False)
            for shard, part in zip(shards, parts, strict=True):
                shard[name] = part
        return shards


class _Ragged(ArrowBatchCollateFn):  # type: ignore[misc]  # Ray's class is untyped
    """Lists of unlike length as flat tensors with their lengths, the form that Ray Data can hand over."""

    def __call__(self, batch: pa.Table) -> dict[str, Tensor]:
        batch = batch.combine_chunks()
        tensors = {"row": torch.tensor(batch["row"].to_numpy())}
        for name in ("input_ids", "positive", "unknown"):
            column = batch[name].combine_chunks()
            tensors[name] = torch.tensor(column.flatten().to_numpy(zero_copy_only=False), dtype=torch.int32)
            tensors[f"{name}.lengths"] = torch.tensor(np.diff(column.offsets.to_numpy()))
        return tensors


def epoch_batches(shard: ray.data.DataIterator, rows: int, labels: int, seed: int) -> Iterator[TokenBatch]:
    """One epoch over a worker's shard in batches of ``rows``, mixed in a window of 32,768 rows by ``seed``."""
    stream = shard.iter_torch_batches(
        batch_size=rows,
        local_shuffle_buffer_size=_SHUFFLE_ROWS,
        local_shuffle_seed=seed,
        collate_fn=_Ragged(),
        device="cpu",
    )
    for tensors in stream:
        ids, positive, unknown = (_lists(tensors, name) for name in ("input_ids", "positive", "unknown"))
        yield TokenBatch(
            tensors["row"].numpy(),
            np.split(ids.values.to_numpy(), ids.offsets.to_numpy()[1:-1]),
            dense_targets(positive, unknown, labels),
        )


def _lists(tensors: dict[str, Tensor], name: str) -> pa.ListArray:
    lengths = tensors[f"{name}.lengths"].numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(tensors[name].numpy()))
