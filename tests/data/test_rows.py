"""Labelled files to canonical rows: the same rows and label space from every form and format."""
# tests are told by their names

import csv
import gzip
import io
import json
import math

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayclf.config import DataConfig
from rayclf.data.extract import row_ids
from rayclf.data.rows import read_labelled
from rayclf.data.texts import TextSource
from rayclf.errors import AmbiguousColumn, DataError, LabelError, UserError
from rayclf.labels import LabelSpace, ProblemType, dense_targets

# Told to be steady: the same examples each time, and no clock.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
BINARY, MULTICLASS, MULTILABEL = ProblemType.BINARY, ProblemType.MULTICLASS, ProblemType.MULTILABEL
FORMATS = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "tsv.gz", "jsonl.gz")
TEXTS = ["some text", 'commas, "quotes"', "two\nlines", "ünïcödé 🐈"]


def encoded(form, rows):
    """Rows of JSON values as the bytes of a file; cells that are not strings are written as JSON in CSV."""
    name, names = form.removesuffix(".gz"), list(rows[0])
    if name == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return sink.getvalue()
    if name == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        sheet = io.StringIO(newline="")
        writer = csv.writer(sheet, delimiter="\t" if name == "tsv" else ",")
        writer.writerow(names)
        for row in rows:
            writer.writerow([v if isinstance(v, str) else json.dumps(v) for v in map(row.get, names)])
        text = sheet.getvalue()
    return gzip.compress(text.encode(), 1) if form.endswith(".gz") else text.encode()


@pytest.fixture
def read(tmp_path):
    def read(name, content, config=None, **options):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_labelled(file, config, **options)

    return read


def targets(found):
    table = found.table
    dense = dense_targets(
        table["positive"].combine_chunks(), table["unknown"].combine_chunks(), len(found.space)
    ).tolist()
    return [[None if math.isnan(v) else int(v) for v in row] for row in dense]


def rows_of(text, label, cells):
    return [{text: t, label: cell} for t, cell in zip(TEXTS, cells, strict=True)]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("names", [("prompt", "completion"), ("input", "expected_output"), ("text", "label")])
@pytest.mark.parametrize(
    ("cells", "kind", "labels", "expected"),
    [
        ([0, 1, 1, 0], BINARY, ("positive",), [[0], [1], [1], [0]]),
        ([False, True, True, False], BINARY, ("positive",), [[0], [1], [1], [0]]),
        ([{"is_cat": 1}, {"is_cat": 0}, {"is_cat": 0}, {"is_cat": 1}], BINARY, ("is_cat",), [[1], [0], [0], [1]]),
        (
            [{"B": 1, "A": 0}, {"B": 0, "A": 1}, {"B": 1, "A": 0}, {"A": 1}],
            MULTICLASS,
            ("B", "A"),
            [[1, 0], [0, 1], [1, 0], [0, 1]],
        ),
        (
            [{"B": 1, "A": 1}, {"B": 0, "A": 0}, {"B": 1}, {"A": 0, "C": 1}],
            MULTILABEL,
            ("B", "A", "C"),
            [[1, 1, None], [0, 0, None], [1, None, None], [None, 0, 1]],
        ),
        (["cat", "dog", "cat", "a b, c"], MULTICLASS, ("a b, c", "cat", "dog"), None),
        ([["x", "y"], ["y"], [], ["z"]], MULTILABEL, ("x", "y", "z"), [[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]),
        (["x|y", "y", "", "z"], MULTILABEL, ("x", "y", "z"), [[1, 1, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]),
    ],
)
def test_every_format_gives_the_same_rows(read, form, names, cells, kind, labels, expected):
    found = read(f"x.{form}", encoded(form, rows_of(*names, cells)))
    assert (found.reads.text, found.label) == names
    assert (found.space.problem_type, found.space.names) == (kind, labels)
    assert found.table["text"].to_pylist() == TEXTS
    assert found.table["id"].to_pylist() == [f"x.{form}#{row}" for row in range(1, 5)]
    assert targets(found) == (expected or [[0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    assert found.table.column_names == ["id", "text", "positive", "unknown"]


@pytest.mark.parametrize("form", FORMATS)
def test_whole_numbers_are_classes(read, form):
    found = read(f"x.{form}", encoded(form, rows_of("text", "stars", [10, 9, 9, 1])))
    assert (found.space.problem_type, found.space.names) == (MULTICLASS, ("1", "9", "10"))
    assert targets(found) == [[0, 0, 1], [0, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_the_loose_form_is_the_same_as_the_proper_one(read):
    cells = [{"Label_1": 1, "Label_2": 0}, {"Label_1": 0, "Label_2": 1}] * 2
    proper = read("x.csv", encoded("csv", rows_of("input", "expected_output", cells)))
    lines = [f'"{text}", "{json.dumps(cell)}"\n' for text, cell in zip(TEXTS, cells, strict=True)]
    loose = read("x.csv", "input, expected_output\n" + "".join(lines))
    assert loose.space == proper.space
    assert loose.table.equals(proper.table)
    assert loose.space.problem_type is MULTICLASS
    flags = read("x.csv", 'input, expected_output\n"a, text", 1\n"another", 0\n')
    assert (flags.reads.text, flags.label, flags.space.names) == ("input", "expected_output", ("positive",))
    assert targets(flags) == [[1], [0]]


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_columns_that_only_parquet_has(read):
    objects = [{"A": 1, "B": 0}, {"A": 0, "B": 1}, {"A": 1}, {"B": 1, "A": 1}]
    as_json = read("x.jsonl", encoded("jsonl", rows_of("text", "label", objects)))
    kinds = [
        pa.array(objects),  # struct; what is missing is null
        pa.array([list(o.items()) for o in objects], pa.map_(pa.string(), pa.int8())),
        pa.array([json.dumps(o) for o in objects]).dictionary_encode(),
        pa.array(objects, pa.struct([("A", pa.float64()), ("B", pa.uint8())])),
    ]
    for column in kinds:
        found = read("x.parquet", parquet(text=pa.array(TEXTS).dictionary_encode(), label=column))
        assert found.space == as_json.space
        assert found.table.drop_columns("id").equals(as_json.table.drop_columns("id"))
    names = pa.array(["b", "a", "b", "a"]).dictionary_encode()
    assert targets(read("x.parquet", parquet(text=TEXTS, label=names))) == [[0, 1], [1, 0]] * 2


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_integers_that_pandas_writes_as_floats(tmp_path, form):
    frame = pd.DataFrame({"text": TEXTS, "label": pd.Series([2, 0, 1, 2], dtype="float64")})
    file = tmp_path / f"x.{form}"
    if form == "csv":
        frame.to_csv(file, index=False)
    elif form == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    assert read_labelled(file).space.names == ("0", "1", "2")
    frame["label"] = pd.Series([1, 0, None, 1], dtype="Int64")
    if form == "csv":
        frame.to_csv(file, index=False)
    elif form == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_parquet(file)
    with pytest.raises(DataError, match="row 3, column 'label': no label"):
        read_labelled(file)


def test_nan_is_no_class(read):
    content = '{"text": "a b", "label": "x"}\n{"text": "c d", "label": NaN}\n'
    with pytest.raises(DataError, match="row 2, column 'label': no label"):
        read("x.jsonl", content)
    with pytest.raises(DataError, match="row 2, column 'label': no label"):
        read("x.parquet", parquet(text=["a b", "c d"], label=pa.array([1.0, float("nan")])))


# --- what cannot be used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_empty_texts_name_the_row(read, form):
    rows = [{"text": t, "label": c} for t, c in zip(["a", "b", " \n\u00a0", "", "c"], "xyxyx", strict=True)]
    with pytest.raises(DataError, match=r"row 3, column 'text': empty text \(and 1 more rows\)"):
        read(f"x.{form}", encoded(form, rows))


def test_null_texts_name_the_row(read):
    rows = [{"text": "a", "label": "x"}, {"text": None, "label": "y"}]
    for form in ("jsonl", "parquet"):
        with pytest.raises(DataError, match=r"x.*: row 2, column 'text': no text$"):
            read(f"x.{form}", encoded(form, rows))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("cells", "error", "words"),
    [
        ([0, 1, 2, 1], DataError, "row 3, column 'completion': must be 0, 1"),
        ([1, 1, 1, 1], LabelError, "same label"),
        ([1, 0, "x", 1], DataError, "row 3, column 'completion': must be 0 or 1"),
        ([{"A": 1}, {"A": 0}, {"A": 3}, {"A": 1}], DataError, "row 3, column 'completion': label 'A' must be 0 or 1"),
    ],
)
def test_bad_completions(read, form, cells, error, words):
    if form == "parquet" and "x" in cells:
        cells = [str(cell) for cell in cells]
    with pytest.raises(error, match=words) as raised:
        read(f"x.{form}", encoded(form, rows_of("prompt", "completion", cells)))
    assert f"x.{form}: " in str(raised.value)


def test_completions_of_mixed_forms(read):
    with pytest.raises(DataError, match="row 2, column 'completion': is an object where most rows have a value"):
        read("x.jsonl", encoded("jsonl", rows_of("prompt", "completion", [1, {"A": 1}, 0, 1])))


def test_label_names_with_line_breaks_give_one_line(read):
    space = LabelSpace(("a", "b"), MULTICLASS)
    with pytest.raises(LabelError) as error:
        read("x.jsonl", encoded("jsonl", rows_of("text", "label", ["a", "new\nline", "b", "a"])), space=space)
    assert len(str(error.value).splitlines()) == 1


def test_a_test_file_with_other_labels(read):
    train = read("train.csv", encoded("csv", rows_of("text", "label", ["a", "b", "c", "a"])))
    test = read("test.jsonl", encoded("jsonl", rows_of("text", "label", ["c", "c", "c", "c"])), space=train.space)
    assert targets(test) == [[0, 0, 1]] * 4
    with pytest.raises(LabelError, match=r"test.csv: row 2, column 'label': a label that training does not have: d;"):
        read("test.csv", encoded("csv", rows_of("text", "label", ["a", "d", "d", "a"])), space=train.space)


def test_columns_by_config(read):
    rows = [{"one": t, "two": t[::-1] * 3, "kind": c} for t, c in zip(TEXTS, "abab", strict=True)]
    with pytest.raises(AmbiguousColumn):
        read("x.csv", encoded("csv", [{**row, "text": "x y", "content": "z"} for row in rows]))
    found = read("x.csv", encoded("csv", rows), DataConfig(text="two", label="kind"))
    assert found.table["text"].to_pylist() == [row["two"] for row in rows]
    assert (
        read("x.csv", encoded("csv", rows), DataConfig(label="kind"), prefer=TextSource(text="one")).reads.text == "one"
    )
    found = read("x.csv", "text,tags\na b,x;y\nc d,y\n", DataConfig(separator=";"))
    assert found.space.names == ("x", "y")


def test_a_label_column_without_a_name(read):
    found = read("x.csv", "text,\n" + "a b c,x\nd e f,y\n" * 4)
    assert found.label == ""
    assert found.space.names == ("x", "y")


# --- ids --------------------------------------------------------------------------------------------------------


def test_given_ids_are_kept_and_missing_ones_made():
    table = pa.table({"id": ["7", None, " ", "a"], "text": ["x"] * 4})
    assert row_ids(table, "x.csv").to_pylist() == ["7", "x.csv#2", "x.csv#3", "a"]
    assert row_ids(table.select(["text"]), "in/x.csv", first_row=5).to_pylist() == [
        f"in/x.csv#{i}" for i in range(5, 9)
    ]
    assert row_ids(table.slice(0, 0), "x.csv").to_pylist() == []


@pytest.mark.parametrize(
    "ids", [pa.array([1, 2]), pa.array(["1", "2"]).dictionary_encode(), pa.chunked_array([[1], [2]])]
)
def test_ids_of_any_type(ids):
    assert row_ids(pa.table({"id": ids}), "x.parquet").to_pylist() == ["1", "2"]


# --- properties -------------------------------------------------------------------------------------------------

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@steady
@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(words.map("t{}".format), st.lists(words.map(str.strip), max_size=3)), max_size=5),
)
def test_any_text_and_label_names_survive(tmp_path_factory, form, pairs):
    pairs = [*pairs, ("one more", ["x", "y"]), ("another", [])]
    file = tmp_path_factory.getbasetemp() / f"rows.{form}"
    file.write_bytes(encoded(form, [{"text": text, "labels": names} for text, names in pairs]))
    found = read_labelled(file)
    assert found.table["text"].to_pylist() == [text for text, _ in pairs]
    assert found.space.problem_type is MULTILABEL
    assert found.space.names == tuple(sorted({name for _, names in pairs for name in names})) or all(
        name.isdecimal() for name in found.space.names
    )
    held = [{found.space.names[i] for i in row} for row in found.table["positive"].to_pylist()]
    assert held == [set(names) for _, names in pairs]


SEEDS = [
    (form, encoded(form, rows_of("prompt", "completion", cells)))
    for form in FORMATS
    for cells in ([0, 1, 1, 0], [{"A": 1, "B": 0}, {"A": 0, "B": 1}] * 2, ["a|b", "b", "c", "a"])
]


@settings(steady, max_examples=300)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_mutated_files_raise_nothing_but_user_errors(tmp_path_factory, seed, changes):
    form, content = seed
    mutated = bytearray(content)
    for place, value in changes:
        mutated[place % len(mutated)] = value
    file = tmp_path_factory.getbasetemp() / f"mutated-rows.{form}"
    file.write_bytes(bytes(mutated))
    try:
        found = read_labelled(file)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert found.table["text"].null_count == 0
        assert len(targets(found)) == found.table.num_rows
