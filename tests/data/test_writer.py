"""One part as Parquet files: every row once, mixed over all files."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayclf.data import writer
from rayclf.data.writer import PartWriter


def written(folder, rows, seed, batch=7):
    part = PartWriter(folder, "train", rows, seed)
    for start in range(0, rows, batch):
        table = pa.table({"n": np.arange(start, min(start + batch, rows))})
        part.write(table, np.arange(table.num_rows))
    files = part.close()
    return files, [n for file in files for n in pq.read_table(folder / file.path)["n"].to_pylist()]


def test_rows_are_mixed_over_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_FILE_ROWS", 100)
    files, numbers = written(tmp_path, 1000, seed=1)
    assert sorted(numbers) == list(range(1000))
    assert len(files) == 10
    assert [file.path for file in files] == sorted(file.path for file in files)
    firsts = numbers[: files[0].rows]
    assert min(firsts) < 100 < 900 < max(firsts)  # the first file has rows from everywhere
    assert numbers != sorted(numbers)
    assert sum(file.rows for file in files) == 1000
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name[:5] != "part-"]


def test_a_seed_gives_the_same_order(tmp_path):
    orders = [written(tmp_path / str(i), 200, seed)[1] for i, seed in enumerate([5, 5, 6])]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("seed", [None, 1])
def test_rows_may_repeat_or_be_none(tmp_path, seed):
    part = PartWriter(tmp_path, "train", 3, seed)
    part.write(pa.table({"n": [1, 2, 3]}), np.array([0, 0, 2]))
    (file,) = part.close()
    assert sorted(pq.read_table(tmp_path / file.path)["n"].to_pylist()) == [1, 1, 3]
    empty = PartWriter(tmp_path, "test", 0, seed)
    empty.write(pa.table({"n": [1]}), np.array([], np.int64))
    assert empty.close() == []


def test_order_is_kept_without_a_seed(tmp_path):
    _, numbers = written(tmp_path, 500, seed=None)
    assert numbers == list(range(500))
