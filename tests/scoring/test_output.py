"""What the output says of a row is what the engine says of it; files are parted by label where asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import SPACES

from rayclf.labels import Floats, LabelSpace, ProblemType
from rayclf.scoring.job import Columns
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.output import NO_LABEL, result_columns, spread, write_unit

NOTHING = pa.schema([])


def said(space: LabelSpace, probabilities: Floats, columns: Columns) -> list[dict[str, object]]:
    holds = space.decide(probabilities, np.full(len(space), 0.5, np.float32))
    return pa.table(result_columns(space, probabilities, holds, columns)).to_pylist()


@pytest.mark.parametrize("kind", list(ProblemType), ids=str)
@given(data=st.data())
def test_labels_scores_and_the_most_probable_ones(kind: ProblemType, data: st.DataObject) -> None:
    space = SPACES[kind]
    shape = (data.draw(st.integers(0, 4)), len(space))
    probabilities = data.draw(arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    for row, p in zip(said(space, probabilities, Columns(NOTHING, "list", 2)), probabilities, strict=True):
        held = [name for name, value in zip(space.names, p, strict=True) if value >= 0.5]
        best = int(p.argmax())
        if kind is ProblemType.BINARY:
            assert (row["label"], row["score"]) == ((space.names[0], p[0]) if held else (space.negative, 1 - p[0]))
        else:
            assert (row["label"], row["score"]) == (space.names[best], p[best])
        assert row["labels"] == ([space.names[best]] if kind is ProblemType.MULTICLASS else held)
        assert row["probabilities"] == p.tolist()
        top = [space.names[i] for i in sorted(range(len(space)), key=lambda i: (-p[i], i))[:2]]
        assert row["top_labels"] == top
        assert row["top_scores"] == sorted(p.tolist(), reverse=True)[:2]


def test_one_column_a_label_or_none() -> None:
    space = SPACES[ProblemType.MULTILABEL]
    probabilities = np.asarray([[0.1, 0.9, 0.5, 0.0]], np.float32)
    (row,) = said(space, probabilities, Columns(NOTHING, "columns"))
    assert [row[f"probability_{name}"] for name in space.names] == probabilities[0].tolist()
    (row,) = said(space, probabilities, Columns(NOTHING, "none"))
    assert set(row) == {"label", "score", "labels"}


def test_rows_with_an_error_have_nulls() -> None:
    columns = {"label": pa.array(["a", "b"]), "labels": pa.array([["a"], []])}
    wide = pa.table(spread(columns, np.asarray([1, 3]), 4)).to_pylist()
    assert [row["label"] for row in wide] == [None, "a", None, "b"]
    assert [row["labels"] for row in wide] == [None, ["a"], None, []]


def test_hive_folders_read_back_as_the_label(tmp_path: Path) -> None:
    labels = ["a/b", None, "ü & %", "a/b"]
    table = pa.table({"id": ["1", "2", "3", "4"], "label": pa.array(labels, pa.string())})
    files = write_unit(Manifest(tmp_path / "out"), "00000-000000", table, True)
    assert sum(file["rows"] for file in files) == 4
    assert any(NO_LABEL in file["path"] for file in files)
    read = ds.dataset(tmp_path / "out", partitioning="hive").to_table().to_pylist()
    assert {row["id"]: row["label"] for row in read} == dict(zip("1234", labels, strict=True))
