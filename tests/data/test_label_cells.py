"""The forms of cells, each read once, and what is wrong with them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rayclf.data.label_cells import Cell, LabelColumn, flag_of, read_label_column, short
from rayclf.errors import DataError


def read(*cells: str | None, lenient: bool = False) -> LabelColumn:
    return read_label_column(pa.chunked_array([pa.array(cells, pa.string())]), "x.csv", "label", lenient=lenient)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("1", "1"),
        (" a name ", "a name"),
        ("3.0", "3"),
        ('["a", " b", "a"]', ("a", "b")),
        ('["a", 4]', ("a", "4")),
        ("a | b||a", ("a", "b")),
        ("[]", ()),
        ('{"a": 1, "b": false, "c": null, "d": NaN}', {"a": 1, "b": 0, "c": None, "d": None}),
        ("{}", {}),
    ],
)
def test_forms_of_cells(text: str, cell: Cell) -> None:
    assert read(text).cells == [cell]


def test_each_distinct_cell_is_read_once() -> None:
    column = read("b", "a", "b", "b")
    assert column.good == [(0, "b"), (1, "a")]
    assert column.codes.to_pylist() == [0, 1, 0, 0]
    assert [column.row_of(0), column.row_of(1)] == [1, 2]


def test_a_strict_column_raises_for_the_first_row() -> None:
    with pytest.raises(DataError, match=r"^x\.csv: row 2, column 'label': broken JSON$"):
        read("a", "[b", "[b", None)


def test_a_lenient_column_notes_what_is_wrong() -> None:
    column = read("a", "{b", None, "a", "{b", lenient=True)
    assert column.cells == ["a", None, None]
    assert column.bad == {1: "column 'label': broken JSON", 2: "column 'label': no label"}
    assert column.good == [(0, "a")]
    column.refuse(1, "something else")
    assert column.bad[1] == "column 'label': broken JSON", "what is told is what was wrong first"


def test_flags() -> None:
    assert [flag_of(cell) for cell in ("0", "TRUE", "half-true", "2", ("1",), {"a": 1})] == [
        0,
        1,
        None,
        None,
        None,
        None,
    ]


def test_long_names_are_cut_in_errors() -> None:
    assert short("x" * 60) == "x" * 60
    assert short("x" * 61) == "x" * 60 + "…"
