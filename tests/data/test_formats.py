"""Files to tables of strings: CSV, TSV, JSONL, Parquet and gzip, broken ones, and any bytes at all."""
# tests are told by their names

import csv
import datetime
import decimal
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayclf.data.formats import format_of, read_batches, read_table, text_column
from rayclf.errors import DataError, UserError

# Told to be steady: the same examples each time, and no clock.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
FORMATS = ("csv", "tsv", "jsonl", "parquet", "csv.gz", "tsv.gz", "jsonl.gz")


def encoded(form, names, rows):
    """Rows of strings as the bytes of a file."""
    name = form.removesuffix(".gz")
    if name == "parquet":
        columns = zip(*rows, strict=True) if rows else [[] for _ in names]
        sink = io.BytesIO()
        pq.write_table(pa.table({n: pa.array(list(c), pa.string()) for n, c in zip(names, columns, strict=True)}), sink)
        return sink.getvalue()
    if name == "jsonl":
        text = "".join(json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=False) + "\n" for row in rows)
    else:
        sheet = io.StringIO(newline="")
        csv.writer(sheet, delimiter="\t" if name == "tsv" else ",").writerows([names, *rows])
        text = sheet.getvalue()
    data = text.encode()
    return gzip.compress(data, 1, mtime=0) if form.endswith(".gz") else data


@pytest.fixture
def read(tmp_path):
    """Write a file and read it back as a dict of columns."""

    def read(name, content):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_table(file).to_pydict()

    return read


def refused(read, name, content):
    with pytest.raises(DataError) as error:
        read(name, content)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert name in message
    return message


ROWS = [
    ("plain", "a"),
    ("comma, and; semicolon\tand tab", "b"),
    ('"quoted" and "twice ""over"""', "c"),
    ("two\nlines\r\nthree\rfour", "d"),
    ("  spaces kept  ", ", "),
    ("ünïcödé 漢字 🐈 \u2028 \u0000", "''"),
    ('{"json": [1, 2]}', '["x"]'),
    ('ends in a quote"', '"'),
]


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rows", [ROWS, ROWS[::-1], ROWS[2:], [('a, "b"', "x"), (" y", ' "z"')]])
def test_every_format_gives_the_same_columns(read, form, rows):
    found = read(f"x.{form}", encoded(form, ("text", "label"), rows))
    assert found == {"text": [row[0] for row in rows], "label": [row[1] for row in rows]}


def test_upper_case_extensions(read):
    assert read("X.CSV.GZ", encoded("csv.gz", ("a",), [("1",)])) == {"a": ["1"]}


cells = st.text(st.characters(exclude_categories=["Cs"]))


@steady
@given(
    st.sampled_from(FORMATS),
    st.lists(st.text("abcXYZé", min_size=1), min_size=2, max_size=3, unique=True),
    st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=5),
)
def test_any_text_survives(tmp_path_factory, form, names, rows):
    rows = [row[: len(names)] for row in rows]
    file = tmp_path_factory.getbasetemp() / f"any.{form}"
    file.write_bytes(encoded(form, names, rows))
    table = read_table(file)
    assert table.column_names == names
    assert [list(row.values()) for row in table.to_pylist()] == rows
    assert set(table.schema.types) == {pa.string()}


SEEDS = [encoded(form, ("text", "label"), [("some text", "a"), ("öther, text", "b")]) for form in FORMATS]
LOOSE = b'input, expected_output\n"some text", "{"A": 1, "B": 0}"\n"more, text", "{"A": 0, "B": 1}"\n'
SEEDS_BY_NAME = [*zip(FORMATS, SEEDS, strict=True), ("csv", LOOSE), ("csv.gz", gzip.compress(LOOSE, mtime=0))]


@settings(steady, max_examples=400)
@given(st.sampled_from(SEEDS_BY_NAME), st.data())
def test_mutated_bytes_raise_nothing_but_user_errors(tmp_path_factory, seed, data):
    form, content = seed
    mutated = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(mutated) - 1)))
        match data.draw(st.sampled_from(["set", "cut", "insert", "drop", "double"])):
            case "set" if mutated:
                mutated[place] = data.draw(st.integers(0, 255))
            case "cut":
                del mutated[place:]
            case "insert":
                mutated[place:place] = data.draw(st.sampled_from([b'"', b"\n", b",", b"\xff", b"\0", b"{", b"\\ud800"]))
            case "drop":
                del mutated[place : place + 1]
            case _:
                mutated[place:place] = mutated[place : place + 10]
    file = tmp_path_factory.getbasetemp() / f"mutated.{form}"
    file.write_bytes(bytes(mutated))
    try:
        table = read_table(file)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        table.to_pylist()  # strings that are not UTF-8 would fail here


@steady
@given(st.sampled_from(FORMATS), st.binary(max_size=50))
def test_any_bytes_raise_nothing_but_user_errors(tmp_path_factory, form, content):
    file = tmp_path_factory.getbasetemp() / f"bytes.{form}"
    file.write_bytes(gzip.compress(content) if form.endswith(".gz") else content)
    try:
        read_table(file).to_pylist()
    except UserError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_batches_are_in_order_and_of_at_most_so_many_rows(tmp_path, form, size):
    rows = [(str(i), "x") for i in range(6)]
    (tmp_path / f"x.{form}").write_bytes(encoded(form, ("n", "label"), rows))
    batches = list(read_batches(tmp_path / f"x.{form}", size))
    assert max(batch.num_rows for batch in batches) <= size
    assert [n for batch in batches for n in batch["n"].to_pylist()] == [row[0] for row in rows]


# --- files that cannot be read ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.xlsx", "x", "x.csv.zip", "x.gz", "csv"])
def test_unknown_types(name):
    with pytest.raises(DataError, match=r"unknown file type; use one of .csv"):
        format_of(name)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"absent\.csv: no such file"):
        read_table(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match=r"folder\.csv: is a folder"):
        read_table(tmp_path / "folder.csv")


@pytest.mark.parametrize("form", FORMATS)
def test_empty_files_and_files_without_rows(read, form):
    assert refused(read, f"empty.{form}", b"")
    assert "holds no rows" in refused(read, f"head.{form}", encoded(form, ("text", "label"), []))


@pytest.mark.parametrize("content", ["\n", "\r\n\r\n", "  \n\n", "\ufeff"])
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_blank_files(read, form, content):
    assert "empty" in refused(read, f"x.{form}", content) or "no rows" in refused(read, f"x.{form}", content)


@pytest.mark.parametrize("form", ["csv.gz", "tsv.gz", "jsonl.gz"])
def test_truncated_gzip(read, form):
    whole = encoded(form, ("text", "label"), [(f"text {i * 7919}", "a") for i in range(300)])
    for stop in (5, 15, len(whole) // 2, len(whole) - 4):
        assert "not a whole gzip file" in refused(read, f"x.{form}", whole[:stop])
    assert "not a whole gzip file" in refused(read, f"x.{form}", b"text,label\nx,a\n")


def test_truncated_parquet(read):
    whole = encoded("parquet", ("text",), [("a",)])
    assert "not a Parquet file" in refused(read, "x.parquet", whole[:-8])
    assert "not a Parquet file" in refused(read, "x.parquet", b"text,label\n")
    assert "not a Parquet file" in refused(read, "x.parquet.gz", gzip.compress(whole))


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_not_utf_8(read, form, encoding):
    content = encoded(form, ("text", "label"), [("é", "a")]).decode().encode(encoding)
    assert "not UTF-8" in refused(read, f"x.{form}", content)
    assert "not UTF-8" in refused(read, f"x.{form}.gz", gzip.compress(content))


def test_strings_in_parquet_that_are_not_utf_8(read):
    sink = io.BytesIO()
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": bad}), sink)
    assert "damaged" in refused(read, "x.parquet", sink.getvalue())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "\\ud800", "label": "a"}', "row 2, column 'text': not valid Unicode"),
        ('{"text": "x", "label": {"\\udfff": 1}}', "row 2, column 'label': not valid Unicode"),
        ('{"text": "x", "\\ud800": "a"}', "column name '\\ud800': not valid Unicode"),
    ],
)
def test_lone_surrogates(read, line, words):
    assert words in refused(read, "x.jsonl", f'{{"text": "x", "label": "a"}}\n{line}\n')


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_duplicate_columns(read, form):
    if form == "parquet":
        sink = io.BytesIO()
        pq.write_table(pa.table([pa.array(["x"])] * 2, names=["text", "text"]), sink)
        content = sink.getvalue()
    else:
        content = encoded(form, ("text", "text"), [("x", "y")])
    assert "duplicate column names: text" in refused(read, f"x.{form}", content)


def test_duplicate_json_names(read):
    line = '{"text": "x", "label": "a"}\n'
    assert "line 2: the name 'label' stands twice" in refused(
        read, "x.jsonl", line + '{"text": "x", "label": "a", "label": "b"}'
    )
    assert "line 2: the name 'A' stands twice" in refused(
        read, "x.jsonl", line + '{"text": "x", "label": {"A": 1, "A": 0}}'
    )


@pytest.mark.parametrize(
    "line",
    ['{"text": "x"', "{'text': 'x'}", '["text"]', '"text"', "1", "{}", '{"a": 1} {"a": 2}', "[" * 100_000, "9" * 5000],
)
def test_broken_json_names_the_line(read, line):
    content = f'{{"text": "x", "label": "a"}}\n\n{line}\n'
    assert "x.jsonl: line 3:" in refused(read, "x.jsonl", content)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\na,b\nc\n", "line 3: 1 fields where the header has 2"),
        ("text,label\na,b\nc,d,e\n", "line 3: 3 fields where the header has 2"),
        ('text,label\n"two\nlines",b\nc\n', "line 4: 1 fields"),
        ('text,label\na,b\n"open,b\nc,d\ne,f\n', "line 3: broken CSV"),
        ('text,label\na,b\n"x"y,b\n', "line 3: broken CSV"),
        ('text,label\na,b\n"x\ny"z,b\n', "line 3: broken CSV"),
    ],
)
def test_broken_csv_names_the_line(read, content, words):
    assert words in refused(read, "x.csv", content)
    assert words in refused(read, "x.tsv", content.replace(",", "\t"))


# --- CSV as people write it -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "text,label\na,b\n",
        "text;label\na;b\n",
        "text\tlabel\na\tb\n",
        "\ufefftext,label\r\na,b\r\n",
        "text,label\ra,b\r",
        "\n\ntext,label\n\na,b\n\n",
        '"text", "label"\n"a", "b"\n',
        'text, label\n"a", "b"\n',
        "text,label\na,b",
        " text , label \na,b\n",
    ],
)
def test_dialects(read, content):
    assert read("x.csv", content) == {"text": ["a"], "label": ["b"]}


def test_spaced_quotes_that_begin_late(read):
    content = "text, label\n" + "plain, a\n" * 50 + '"one, two", "b"\n'
    found = read("x.csv", content)
    assert (found["text"][-1], found["label"][-1]) == ("one, two", "b")


def loose(*rows):
    return "input, expected_output\n" + "".join(row + "\n" for row in rows)


def test_loosely_quoted_json(read):
    found = read(
        "x.csv",
        loose(
            '"some text", "{"Label_1": 1, "Label_2": 0}"',
            'no quotes, and a comma, "{"Label_1": 0, "Label_2": 1}"',
            '"commas, "quotes" and \'more\'","{"Label_1": 1, "Label_2": 0}"',
            "",
            '"two\nlines, "quoted"\n\nand blank ones", "{"Label_1": 0, "Label_2": 1}"',
            '"proper ""CSV""","{""Label_1"": 1, ""Label_2"": 0}"',
            '"names {"like": "JSON"}", "{"Label_1": 1, "Label, 2": 0}"  ',
        ),
    )
    assert found["input"] == [
        "some text",
        "no quotes, and a comma",
        "commas, \"quotes\" and 'more'",
        'two\nlines, "quoted"\n\nand blank ones',
        'proper "CSV"',
        'names {"like": "JSON"}',
    ]
    assert [list(json.loads(cell).values()) for cell in found["expected_output"]] == [
        [1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [1, 0],
    ]  # fmt: skip
    assert "Label, 2" in json.loads(found["expected_output"][-1])


def test_loosely_quoted_json_with_other_line_ends(read):
    content = loose('"a\nb", "{"A": 1}"', '"c", "{"A": 0}"').replace("\n", "\r\n")
    assert read("x.csv", content)["input"] == ["a\r\nb", "c"]


@pytest.mark.parametrize(
    "broken",
    [
        '"no label"',
        '"braces without quotes", {"A": 1}',
        '"a flag", 1',
        "a plain flag, 1",
        '"open quote, "{"A": 1}',
        "a line\nand another, without quotes",
    ],
)
def test_a_broken_row_is_never_taken_into_the_next_text(read, broken):
    good = '"good", "{"A": 1}"'
    content = loose(good, broken, '"next", "{"A": 0}"', good)
    assert "line 3: broken row" in refused(read, "x.csv", content)
    assert "line 3: broken row" in refused(read, "x.csv", loose(good, broken))


def test_loosely_quoted_json_needs_a_header_of_two(read):
    row = '"some text", "{"A": 1}"\n'
    assert "line 1:" in refused(read, "x.csv", row * 3)
    assert "line 1:" in refused(read, "x.csv", "id,input,expected_output\n" + row)


@pytest.mark.parametrize(
    "text", ['"{"', '{"a": 1}', ',"{"a": 1}"', 'x, "{"a": 1}"', '"{" "', '","{"', 'say "{"a" :', "[]"]
)
def test_proper_csv_is_never_taken_for_the_loose_form(read, text):
    rows = [(text, '{"A": 1}'), (" lead", text)]
    found = read("x.csv", encoded("csv", ("input", "expected_output"), rows))
    assert list(zip(found["input"], found["expected_output"], strict=True)) == rows


# --- values that are no strings ---------------------------------------------------------------------------------


def test_json_values(read):
    lines = ['{"a": 1, "b": true, "c": 1.0, "d": null, "e": {"x": [1, "é"]}, "f": NaN}', '{"g": "late"}']
    assert read("x.jsonl", "\n".join(lines)) == {
        "a": ["1", None],
        "b": ["true", None],
        "c": ["1.0", None],
        "d": [None, None],
        "e": ['{"x": [1, "é"]}', None],
        "f": [None, None],
        "g": [None, "late"],
    }


def test_json_columns_that_come_batches_later(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": "1"}\n' * 3 + '{"b": "2"}\n')
    batches = list(read_batches(tmp_path / "x.jsonl", rows=2))
    assert [batch.column_names for batch in batches[:2]] == [["a"], ["a", "b"]]
    assert read_table(tmp_path / "x.jsonl")["b"].to_pylist() == [None, None, None, "2"]


def test_intervals_are_written_as_they_are():
    """Parquet has no such type, Arrow has."""
    column = pa.array([pa.MonthDayNano([1, 2, 3]), None])
    assert text_column(column).to_pylist() == ["MonthDayNano(months=1, days=2, nanoseconds=3)", None]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None], pa.int64()), ["1", None]),
        (pa.array([1.0, None, float("nan")], pa.float64()), ["1.0", None, None]),
        (pa.array([True, None]), ["true", None]),
        (pa.nulls(2), [None, None]),
        (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        (pa.array([1, 0]).dictionary_encode(), ["1", "0"]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array(["a"], pa.string_view()), ["a"]),
        (pa.array([b"a", b"\xff"]), ["a", "\\xff"]),
        (pa.array([b"ab", None, b"\xff\xfe"], pa.binary(2)), ["ab", None, "\\xff\\xfe"]),
        (pa.array([["a", "b"], [], None]), ['["a", "b"]', "[]", None]),
        (pa.array([{"A": 1, "B": None}, None]), ['{"A": 1, "B": null}', None]),
        (pa.array([[("A", 1), ("B", None)], None], pa.map_(pa.string(), pa.int64())), ['{"A": 1, "B": null}', None]),
        (pa.array([decimal.Decimal("1.50")]), ["1.50"]),
        (pa.array([datetime.date(2024, 1, 2)]), ["2024-01-02"]),
        (pa.array([[datetime.date(2024, 1, 2)]]), ['["2024-01-02"]']),
        (pa.array([{"x": b"raw"}]), ['{"x": "b\'raw\'"}']),
    ],
)
def test_parquet_types(tmp_path, column, expected):
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    assert read_table(tmp_path / "x.parquet")["x"].to_pylist() == expected
