"""Input of many files through Ray Data: a task a file, in order, in bounded memory. Ray is imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rayclf.cluster import connect, root_cause
from rayclf.data.extract import Extract
from rayclf.data.sources import Source
from rayclf.data.survey import one_by_one

if TYPE_CHECKING:
    from ray.data import Dataset

_BLOCK = 8 * 2**20  # bytes that a task gathers before it hands them on; Ray's own 128 MiB are held in each process
_STORE = 128 * 2**20  # bytes of blocks in flight: reading ahead of a slow consumer must not fill the memory
_LARGE = 64 * 2**20  # bytes of input from which starting Ray pays


def read_stream(sources: Sequence[Source], extract: Extract) -> Dataset:
    """What :class:`Extract` reads of many files, a task each, in order, with the position of the ``source``.

    Blocks in flight are bounded, so memory does not grow with the input.
    """
    import ray
    from ray.data import ExecutionResources

    items = [{"position": position} for position in range(len(sources))]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _read_source, batch_size=1, fn_kwargs={"sources": list(sources), "extract": extract}
    )
    dataset.context.target_max_block_size = _BLOCK
    dataset.context.execution_options.preserve_order = True
    dataset.context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=_STORE)
    return dataset


def _read_source(batch: dict[str, Any], sources: Sequence[Source], extract: Extract) -> Iterator[pa.Table]:
    (position,) = batch["position"].tolist()
    for table in extract(sources[position]):
        yield table.append_column("source", pa.array(np.full(table.num_rows, position, np.int32)))


def spread(sources: Sequence[Source], extract: Extract) -> Iterator[tuple[int, pa.Table]]:
    """The tables of all sources in order, read in this process, or by Ray tasks where the input is large."""
    if len(sources) == 1 or sum(source.size for source in sources) < _LARGE:
        yield from one_by_one(sources, extract)
        return
    from ray.exceptions import RayError

    connect()
    try:
        for table in read_stream(sources, extract).iter_batches(batch_size=None, batch_format="pyarrow"):
            if table.num_rows:
                yield table["source"][0].as_py(), table.drop_columns(["source"])
    except RayError as error:
        raise root_cause(error, "reading") from error
