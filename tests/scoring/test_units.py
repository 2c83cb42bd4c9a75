"""Units: every row in one of them, under names and ids that the input alone gives."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayclf.errors import DataError
from rayclf.scoring.units import find_files, look_at, plan_units, read_unit, rows_a_unit


def write(folder: Path, form: str, rows: int) -> Path:
    """A file of ``rows`` texts that are their own number."""
    file = folder / f"x.{form}"
    texts = [f"text {i}" for i in range(rows)]
    if form == "parquet":
        pq.write_table(pa.table({"text": texts}), file, row_group_size=7)
    elif form == "csv":
        file.write_text("text\n" + "\n".join(f'"{text}\n"' for text in texts) + "\n")
    else:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        file.write_bytes(gzip.compress(lines) if form.endswith("gz") else lines)
    return file


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "jsonl.gz"])
@pytest.mark.parametrize("size", [1, 5, 7, 20, 50])
def test_units_hold_every_row_once_in_order(tmp_path: Path, form: str, size: int) -> None:
    file = look_at(str(write(tmp_path, form, 33)), "x")
    assert file.rows == 33
    units = plan_units([file], size)
    tables = [read_unit(unit, size) for unit in units]
    assert [len(table) for table in tables] == [unit.rows for unit in units]
    texts = [text.strip() for table in tables for text in table["text"].to_pylist()]
    assert texts == [f"text {i}" for i in range(33)]
    assert len({unit.name for unit in units}) == len(units)


def test_files_of_a_folder_are_found_in_order_and_named_by_their_place(tmp_path: Path) -> None:
    for place in ("b.csv", "sub/a.parquet", "a.jsonl.gz", ".hidden.csv", "_temporary/x.csv", "notes.txt"):
        file = tmp_path / place
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    assert list(find_files(tmp_path).values()) == ["a.jsonl.gz", "b.csv", "sub/a.parquet"]
    assert list(find_files(tmp_path / "b.csv").values()) == ["b.csv"]


def test_what_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        find_files(tmp_path / "absent")
    with pytest.raises(DataError, match="no data files in this folder"):
        find_files(tmp_path)
    (tmp_path / "x.xlsx").write_text("")
    with pytest.raises(DataError, match="unknown file type"):
        find_files(tmp_path / "x.xlsx")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="holds no rows"):
        look_at(str(tmp_path / "x.parquet"), "x")


def test_unit_size_follows_the_input_alone() -> None:
    assert [rows_a_unit(total) for total in (1, 5_600, 64_000, 10**6, 10**10)] == [512, 512, 1000, 15_625, 65_536]
