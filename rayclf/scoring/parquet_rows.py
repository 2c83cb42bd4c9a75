"""Some rows of a Parquet file, as they are typed in it, with what is not text where text should be told by row."""

from __future__ import annotations

from collections.abc import Collection

import pyarrow as pa

from rayclf.data.formats import PARQUET_ERRORS, first_line, open_parquet
from rayclf.data.reading import Rejects
from rayclf.errors import DataError

_BATCH = 8192


def read_rows(path: str, first: int, rows: int, columns: Collection[str] | None, rejects: Rejects) -> pa.Table:
    """``rows`` rows from ``first`` (from 0), fewer at the file's end; only ``columns`` if given.

    Row groups that hold none of them are not read. A value that is not UTF-8 is null and its row, counted from 1 in
    these rows, is in ``rejects``: Parquet readers do not check. Raises DataError for a damaged file.
    """
    with open_parquet(path) as file:
        names = [name for name in file.schema_arrow.names if columns is None or name in columns]
        groups, skip = list[int](), 0
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            if stop > first and start < first + rows:
                skip = skip if groups else first - start
                groups.append(group)
            start = stop
        parts, missing = list[pa.RecordBatch](), rows
        try:
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=names):
                part = batch.slice(skip, missing)  # empty for a batch that ends before the first row
                skip = max(0, skip - batch.num_rows)
                missing -= part.num_rows
                if part.num_rows:
                    parts.append(part)
                if not missing:
                    break
        except PARQUET_ERRORS as error:
            raise DataError(f"{path}: damaged Parquet file ({first_line(error)})") from None
        schema = pa.schema([file.schema_arrow.field(name) for name in names])
    table = pa.Table.from_batches(parts, schema.remove_metadata()).combine_chunks()
    for position, name in enumerate(names):
        checked = _valid(table[name], name, rejects)
        if checked is not table[name]:
            table = table.set_column(position, schema.field(name), checked)
    return table


def _valid(column: pa.ChunkedArray, name: str, rejects: Rejects) -> pa.ChunkedArray:
    """The column with null in the place of values that are not UTF-8."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        values = []
        for position, scalar in enumerate(column):
            try:
                values.append(scalar.as_py())
            except UnicodeDecodeError:
                values.append(None)
                rejects[position + 1] = f"column '{name}': not valid Unicode (UTF-8)"
        return pa.chunked_array([pa.array(values, column.type)])
    return column
