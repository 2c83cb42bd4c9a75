"""Units: every row in one of them, under names and ids that the input alone gives."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayclf.errors import DataError
from rayclf.scoring import units as units_module
from rayclf.scoring.units import (
    InputFile,
    Unit,
    count_units,
    find_files,
    look_at,
    plan_units,
    read_unit,
    rows_a_unit,
)

FORMS = ["parquet", "csv", "tsv", "jsonl", "jsonl.gz", "csv.zst"]


def write(folder: Path, form: str, rows: int) -> Path:
    """A file of ``rows`` texts that are their own number."""
    file = folder / f"x.{form}"
    texts = [f"text {i}" for i in range(rows)]
    if form == "parquet":
        pq.write_table(pa.table({"text": texts, "n": range(rows)}), file, row_group_size=700)
        return file
    if form.startswith("jsonl"):
        content = "".join(json.dumps({"text": text, "n": str(n)}) + "\n" for n, text in enumerate(texts)).encode()
    else:
        mark = "\t" if form == "tsv" else ","
        content = f"text{mark}n\n".encode()
        content += "".join(f'"{text}\n"{mark}{n}\n' for n, text in enumerate(texts)).encode()
    packs = {"gz": gzip.compress, "zst": lambda data: pa.compress(data, "zstd", asbytes=True)}
    pack = packs.get(form.rpartition(".")[2], bytes)
    file.write_bytes(pack(content))
    return file


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [512, 1024, 65_536])
def test_units_hold_every_row_once_in_order(tmp_path: Path, form: str, size: int) -> None:
    file = look_at(str(write(tmp_path, form, 3000)), "x")
    assert (file.rows, file.schema.names) == (3000, ["text", "n"])
    units = plan_units([file], size)
    tables = [read_unit(Unit(**json.loads(json.dumps(asdict(unit)))))[0] for unit in units]
    assert [len(table) for table in tables] == [unit.rows for unit in units]
    texts = [text.strip() for table in tables for text in table["text"].to_pylist()]
    assert texts == [f"text {i}" for i in range(3000)]
    assert len({unit.name for unit in units}) == len(units) == count_units([file], size)


@pytest.mark.parametrize("form", FORMS)
def test_only_the_columns_that_are_asked_for(tmp_path: Path, form: str) -> None:
    unit = plan_units([look_at(str(write(tmp_path, form, 600)), "x")], 512)[1]
    table, problems = read_unit(unit, ["n", "absent"])
    assert table.column_names == ["n"]
    assert [int(n) for n in table["n"].to_pylist()] == list(range(512, 600))
    assert problems == {}


def test_units_are_made_when_asked_for() -> None:
    files = [
        InputFile(f"{n}.parquet", f"{n}.parquet", rows, pa.schema([]), {}) for n, rows in enumerate([10**11, 1, 513])
    ]
    units = plan_units(files, 512)
    assert len(units) == count_units(files, 512) == 195_312_500 + 1 + 2
    assert [units[place].name for place in (0, 195_312_499, -3, -2, -1)] == [
        "00000-000000",
        "00000-195312499",
        "00001-000000",
        "00002-000000",
        "00002-000001",
    ]
    assert units[-2:] == [Unit("00002-000000", "2.parquet", "2.parquet", 0, 512), units[-1]]
    assert next(iter(units)) == units[0]
    with pytest.raises(IndexError):
        units[len(units)]
    assert list(plan_units([], 512)) == []


def test_a_plan_spares_text_files_a_second_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "csv", 3000)
    file = look_at(str(path), "x")
    saved: dict[str, Any] = json.loads(json.dumps(file.to_json(1024)))
    read: list[str] = []
    look = units_module._index
    monkeypatch.setattr(units_module, "_index", lambda path: (read.append(path), look(path))[1])
    again = look_at(str(path), "x", saved)
    assert again == InputFile.from_json(saved)
    assert list(plan_units([again], 2048)) == list(plan_units([file], 2048))
    assert json.loads(json.dumps(again.to_json(1024))) == saved
    assert read == []
    assert list(plan_units([again], 1536)) == list(plan_units([file], 1536))  # for which the plan has no marks
    assert look_at(str(path), "y", saved).source == "y"
    path.write_text(path.read_text() + "more,1\n")
    assert look_at(str(path), "x", saved).rows == 3001
    assert len(read) == 3


def test_only_the_row_groups_of_a_unit_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "parquet", 2100)
    unit = plan_units([look_at(str(path), "x")], 512)[1]  # in the first two of three
    content = bytearray(path.read_bytes())
    at = pq.ParquetFile(path).metadata.row_group(2).column(0).dictionary_page_offset
    content[at : at + 200] = bytes(200)
    path.write_bytes(content)
    assert read_unit(unit)[0]["n"].to_pylist() == list(range(512, 1024))
    with pytest.raises(DataError, match="damaged Parquet file"):
        read_unit(plan_units([look_at(str(path), "x")], 512)[3])


def test_parquet_keeps_its_types_and_tells_what_is_not_text(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"\xff"], pa.binary()).buffers())
    chat = pa.ListArray.from_arrays([0, 1, 2], bad)
    table = pa.table({"text": bad, "chat": chat, "n": pa.array([1, None], pa.int8()), "raw": [b"\xff", b""]})
    pq.write_table(table, tmp_path / "x.parquet")
    file = look_at(str(tmp_path / "x.parquet"), "x")
    assert file.schema.types == [pa.string(), pa.list_(pa.string()), pa.int8(), pa.binary()]
    found, problems = read_unit(plan_units([file], 512)[0])
    assert found.to_pylist() == [
        {"text": "good", "chat": ["good"], "n": 1, "raw": b"\xff"},
        {"text": None, "chat": None, "n": None, "raw": b""},
    ]
    assert problems.keys() == {1}
    assert "not valid Unicode" in problems[1]


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_folders_give_columns(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "year=2024" / "n=a%20b"
    folder.mkdir(parents=True)
    write(folder, form, 600)
    [(path, name)] = find_files(tmp_path).items()
    file = look_at(path, name)
    assert name == f"year=2024/n=a%20b/x.{form}"
    assert file.schema.names == ["text", "year", "n"]
    assert InputFile.from_json(file.to_json(512)).rows == 600
    table, _ = read_unit(plan_units([file], 512)[1])
    assert table.slice(0, 1).to_pylist() == [{"text": "text 512", "year": "2024", "n": "a b"}]
    assert read_unit(plan_units([file], 512)[1], ["text", "year"])[0].column_names == ["text", "year"]


def test_files_of_a_folder_are_found_in_order_and_named_by_their_place(tmp_path: Path) -> None:
    for place in ("b.csv", "sub/a.parquet", "a.jsonl.gz", "c.tsv.zst", ".hidden.csv", "_temporary/x.csv", "notes.txt"):
        file = tmp_path / place
        file.parent.mkdir(exist_ok=True)
        file.write_text("")
    assert list(find_files(tmp_path).values()) == ["a.jsonl.gz", "b.csv", "c.tsv.zst", "sub/a.parquet"]
    assert list(find_files(tmp_path / "b.csv").values()) == ["b.csv"]
    assert list(find_files(f"{tmp_path}/*/a.*").values()) == ["sub/a.parquet"]


def test_what_is_no_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        find_files(tmp_path / "absent")
    with pytest.raises(DataError, match="no data files in this folder"):
        find_files(tmp_path)
    (tmp_path / "x.xlsx").write_text("")
    with pytest.raises(DataError, match="unknown file type"):
        find_files(tmp_path / "x.xlsx")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "x.parquet")
    (tmp_path / "x.csv").write_text("a,b\n")
    for name in ("x.parquet", "x.csv"):
        with pytest.raises(DataError, match="holds no rows"):
            look_at(str(tmp_path / name), "x")


def test_unit_size_follows_the_input_alone() -> None:
    sizes = [rows_a_unit(total) for total in (1, 5_600, 64_000, 10**6, 10**10)]
    assert sizes == [512, 512, 512, 15_360, 65_536]
