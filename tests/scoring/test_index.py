"""The index of a text file: any part of it, read alone, is what reading the whole file gives."""
# tests are told by their names

import csv
import gzip
import io
import json

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rayclf.data.formats import read_batches
from rayclf.data.reading import Rejects
from rayclf.errors import DataError, UserError
from rayclf.scoring.index import TextIndex, index_csv, index_jsonl
from rayclf.scoring.units import InputFile, plan_units, read_unit

steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
PACK = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, 1),
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def whole(path):
    """The file read from its beginning: its rows, and by position why some are broken."""
    rejects = Rejects()
    tables = list(read_batches(path, 10**6, None, rejects))
    return tables[0].to_pylist(), {row - 1: why for row, why in rejects.items()}


def in_units(path, step, size):
    """The file read unit by unit, last unit first."""
    index = (index_csv if ".csv" in path.name else index_jsonl)(str(path), step)
    file = InputFile.from_json(
        json.loads(json.dumps(InputFile(str(path), "x", index.rows, pa.schema([]), {}, index).to_json(size)))
    )
    rows, problems = [], {}
    for unit in reversed(plan_units([file], size)):
        table, broken = read_unit(unit)
        assert table.num_rows == unit.rows
        assert table.column_names == list(index.columns)
        rows = table.to_pylist() + rows
        problems |= {unit.first + position: why for position, why in broken.items()}
    return rows, problems


def same_in_units(folder, form, data, step, size, pack=""):
    path = folder / f"x.{form}{pack}"
    path.write_bytes(PACK[pack](data))
    try:
        expected = whole(path)
    except UserError:
        return False
    assert in_units(path, step, size * step) == expected
    return True


cells = st.text(st.sampled_from('ab",;\n\r é漢\u2028\x85\xa0\x00{}\ufeff'), max_size=6) | st.text(max_size=4)
steps = st.tuples(st.integers(1, 4), st.integers(1, 3), st.sampled_from(list(PACK)))


@settings(steady, max_examples=150)
@given(
    st.lists(st.tuples(cells, cells), min_size=1, max_size=12),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["", "\ufeff"]),
    st.lists(st.integers(0, 12), max_size=3),
    steps,
)
def test_any_csv(tmp_path_factory, rows, end, bom, blank, sizes):
    text = io.StringIO(newline="")
    write = csv.writer(text, lineterminator=end)
    write.writerow(["n", "té xt"])
    for position, row in enumerate(rows):
        text.write(end * blank.count(position))
        write.writerow(row)
    data = (bom + text.getvalue()).encode("utf-8", "surrogatepass")
    step, size, pack = sizes
    assert same_in_units(tmp_path_factory.getbasetemp(), "csv", data, step, size, pack)


@settings(steady, max_examples=150)
@given(
    st.lists(
        st.dictionaries(st.sampled_from("abc"), cells | st.none() | st.integers(), min_size=1).map(
            lambda row: json.dumps(row, ensure_ascii=False)
        )
        | st.sampled_from(["", " ", "\t\r", "\u3000", "\x85", "\x1c", "[1]", "{", "\ufeff", '{"a": 1} {"a": 2}']),
        max_size=12,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(["", "\ufeff", "\ufeff\n"]),
    steps,
)
def test_any_jsonl(tmp_path_factory, lines, end, bom, sizes):
    data = (bom + '{"a": "x", "b": "y", "c": "z"}' + end + end.join(lines)).encode()
    step, size, pack = sizes
    assert same_in_units(tmp_path_factory.getbasetemp(), "jsonl", data, step, size, pack)


@settings(steady, max_examples=150)
@given(st.sampled_from(["csv", "jsonl"]), st.binary(max_size=60), st.integers(1, 3))
@example("csv", b'a,b\n1,2\nx\n"\xff",3\n\n4,5,6\n7,"8\n', 1)
@example("csv", b'a,b\n1,2\nx\n"\xff",3\n\n4,5,6\n7,8', 1)
@example("jsonl", b'{"a": "\xff"}\n{"a": "\xc3"}\n\n{"b"', 2)
def test_any_bytes(tmp_path_factory, form, tail, step):
    head = b"a,b\n" if form == "csv" else b'{"a": 1, "b": 2}\n'
    same_in_units(tmp_path_factory.getbasetemp(), form, head + tail, step, 1)


def test_marks_are_every_512th_record_and_go_into_the_plan_at_the_ends_of_units(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"".join(b'{"n": %d}\n\n' % n for n in range(2000)))
    index = index_jsonl(str(path))
    content = path.read_bytes()
    assert [json.loads(content[start:].split(b"\n")[0])["n"] for start in index.starts] == [0, 512, 1024, 1536]
    assert index.lines == (0, 1024, 2048, 3072)
    assert (index.rows, index.size, index.columns) == (2000, len(content), ("n",))
    thin = index.thinned(1024)
    assert thin.starts == index.starts[::2]
    assert TextIndex.from_json(2000, json.loads(json.dumps(thin.to_json()))) == thin
    with pytest.raises(ValueError, match="of every 512th row"):
        index.thinned(700)


def test_a_broken_row_is_told_with_its_line_in_the_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('a,b\n"1\n",2\n\n3\n5,6\n')
    assert in_units(path, 1, 1) == (
        [{"a": "1\n", "b": "2"}, {"a": None, "b": None}, {"a": "5", "b": "6"}],
        {1: "line 5: 1 fields where the header has 2"},
    )


def test_columns_of_jsonl_are_those_of_the_first_records(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' * 999 + '{"b": 2}\n{"c": 3}\n')
    index = index_jsonl(str(path))
    assert (index.rows, index.columns) == (1001, ("a", "b"))


def test_loosely_quoted_json_is_read_from_the_beginning(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("input, output\n" + "".join(f'"text {n}", "{{"A": {n}}}"\n' for n in range(1300)))
    index = index_csv(str(path))
    assert (index.rows, index.starts, index.dialect) == (1300, (), None)
    assert in_units(path, 1, 700) == whole(path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", b"", "the file is empty"),
        ("x.csv", b"a,b,a\n1,2,3\n", "duplicate column names: a"),
        ("x.csv", b'a,b\n1,2\n3,"4\n5,6\n', "line 3: broken CSV"),
        ("x.csv", b"\xe9,b\n1,2\n", "the header is not UTF-8"),
        ("x.csv.gz", gzip.compress(b"a,b\n" * 999, mtime=0)[:-9], "not a whole gzip file"),
        ("x.csv.zst", pa.compress(b"a,b\n" * 9, "zstd", asbytes=True)[:-3], "not a whole zstandard file"),
        ("x.jsonl", b"nothing\n\nhere\n", "none of the first 2 rows can be read; line 1: broken JSON"),
        ("x.jsonl", '{"a": 1}\n'.encode("utf-16"), "none of the first"),
        ("absent.jsonl", None, "(?i)no such file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        (index_csv if "csv" in name else index_jsonl)(str(tmp_path / name))
    assert name in str(error.value)


def test_a_file_that_shrank_is_told(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n' * 5)
    index = index_jsonl(str(path), 2)
    [*_, unit] = plan_units([InputFile(str(path), "x", 5, pa.schema([]), {}, index)], 2)
    path.write_text('{"a": 1}\n' * 3)
    with pytest.raises(DataError, match="0 rows from row 5 where 1 were planned"):
        read_unit(unit)
