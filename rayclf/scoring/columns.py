"""What is read of the input files, and which of their columns go to the output."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from rayclf.data.columns import find_text
from rayclf.data.formats import format_of, open_parquet, read_batches
from rayclf.data.texts import TextSource
from rayclf.errors import DataError
from rayclf.scoring.units import InputFile

_TEXTUAL = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_dictionary)


def choose_reads(files: Sequence[InputFile], trained_on: TextSource) -> TextSource:
    """What to read, by the first file; the others must have it too. In the place of one column another may be found.

    Raises DataError when no column, or more than one, can be the text.
    """
    first = files[0]
    if trained_on.text is None or trained_on.text_pair is not None or trained_on.text in first.schema.names:
        return trained_on
    if format_of(first.path) == "parquet":
        with open_parquet(first.path) as file:
            batch = next(file.iter_batches(batch_size=1000))
        strings = [f.name for f in batch.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        sample = pa.Table.from_batches([batch]).select(strings)
    else:
        sample = next(read_batches(first.path, 1000))
    return TextSource(text=find_text(sample, first.path))


def kept_columns(files: Sequence[InputFile], reads: TextSource, columns: Sequence[str] | None) -> pa.Schema:
    """The input columns to keep, of one type each over all files, which the output needs to be one table.

    All are kept but ``id`` where ``columns`` is None. Raises DataError that names the file and the column.
    """
    for file in files:
        reads.check(file.schema.names, file.path)
        for name in reads.columns if reads.template is None else ():
            kind = file.schema.field(name).type
            chat = reads.form == "messages" and (pa.types.is_list(kind) or pa.types.is_large_list(kind))
            if not chat and not any(is_text(kind) for is_text in _TEXTUAL):
                what = "chat messages" if reads.form == "messages" else "text"
                raise DataError(
                    f"{file.path}: text column '{name}' holds {kind}, not {what}; choose another with --text"
                )
    known: dict[str, tuple[InputFile, pa.Field]] = {}
    for file in files:
        for field in file.schema:
            first, seen = known.setdefault(field.name, (file, field))
            if field.type != seen.type and (columns is None or field.name in columns):
                raise DataError(
                    f"{file.path}: column '{field.name}' is {field.type}, but {seen.type} in {first.path}; "
                    "score these files apart, or leave the column out of --columns"
                )
    unknown = [name for name in columns or () if name not in known]
    if unknown:
        raise DataError(f"{files[0].path}: no column '{unknown[0]}'; --columns must name some of: {', '.join(known)}")
    names = known if columns is None else columns
    return pa.schema([known[name][1].with_nullable(True) for name in names if name != "id"])
