"""Cells of a label column to label spaces and targets."""
# tests are told by their names

import json

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayclf.data.label_cells import read_label_column
from rayclf.data.targets import encode_rows, infer_space
from rayclf.errors import DataError, LabelError, UserError
from rayclf.labels import LabelSpace, ProblemType, dense_targets

# Told to be steady: the same examples each time, and no clock.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
BINARY, MULTICLASS, MULTILABEL = ProblemType.BINARY, ProblemType.MULTICLASS, ProblemType.MULTILABEL
nan = None  # unknown, in the rows below


def column(cells, name="label", separator="|"):
    return read_label_column(pa.chunked_array([pa.array(cells, pa.string())]), "x.csv", name, separator)


def read(cells, name="label", problem_type=None, space=None):
    """The problem type, the names, and the targets a row."""
    parsed = column(cells, name)
    space = space or infer_space(parsed, problem_type)
    dense = dense_targets(*encode_rows(parsed, space), len(space))
    return space.problem_type, space.names, [[None if v != v else int(v) for v in row] for row in dense.tolist()]


def refused(kind, cells, name="label", **options):
    with pytest.raises(kind) as error:
        read(cells, name, **options)
    message = str(error.value)
    assert len(message.splitlines()) == 1
    assert message.startswith("x.csv: ")
    return message


@pytest.mark.parametrize("cells", [["0", "1"], ["0.0", "1.0"], ["false", "true"], ["False", "True"], [" 0", "1 "]])
def test_flags(cells):
    assert read(cells) == (BINARY, ("positive",), [[0], [1]])
    assert read(cells, "completion") == (BINARY, ("positive",), [[0], [1]])
    assert read(cells, "is_cat") == (BINARY, ("is_cat",), [[0], [1]])
    assert read(cells, problem_type=MULTICLASS) == (MULTICLASS, ("0", "1"), [[1, 0], [0, 1]])
    assert read(cells, problem_type=MULTILABEL) == (MULTILABEL, ("positive",), [[0], [1]])


def test_flags_among_names_are_names():
    cells = ["true", "false", "half-true", "TRUE"]
    assert read(cells)[:2] == (MULTICLASS, ("TRUE", "false", "half-true", "true"))
    space = LabelSpace(("false", "half-true", "true"), MULTICLASS)
    assert read(["true", "false"], space=space)[2] == [[0, 0, 1], [1, 0, 0]]  # a test file that has only these


def test_whole_numbers():
    assert read(["10", "9", "2"])[:2] == (MULTICLASS, ("2", "9", "10"))
    assert read(["0", "1", "2"]) == (MULTICLASS, ("0", "1", "2"), [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert read(["0.0", "1.0", "2.0", "2"]) == read(["0", "1", "2", "2"])  # as pandas writes integers with nulls
    space = infer_space(column(["0", "1", "2"]))
    assert read(["0", "1"], space=space)[2] == read(["0.0", "1.0"], space=space)[2] == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    "names",
    [
        ["007", "7"],
        ["1e3", "1000"],
        ["+1", "1", "-1"],
        ["٣", "3"],
        ["V27.0", "250.00", "250"],
        ["nan", "inf", "NaN"],
        ["1_000", "1000"],
        ["9" * 5000, "1" * 5000],
        ["0", "00", "1"],
    ],
)
def test_names_that_look_like_numbers_stay_as_they_are(names):
    kind, found, targets = read(names)
    assert kind is MULTICLASS
    assert sorted(found) == sorted(names)
    assert [found[row.index(1)] for row in targets] == names


def test_label_order_does_not_depend_on_the_row_order():
    for cells in (["b", "a", "10", "9"], ["9", "10", "a", "b"]):
        assert read(cells)[1] == ("10", "9", "a", "b")
    assert read(["01", "1", "2"])[1] == read(["2", "1", "01"])[1] == ("01", "1", "2")


def test_objects():
    assert read(['{"is_cat": 1}', '{"is_cat": 0}', '{"is_cat": null}'], "completion") == (
        BINARY,
        ("is_cat",),
        [[1], [0], [nan]],
    )
    assert read(['{"A": 1, "B": 0}', '{"A": false, "B": true}', '{"B": 1.0}']) == (
        MULTICLASS,
        ("A", "B"),
        [[1, 0], [0, 1], [0, 1]],
    )
    assert read(['{"B": 1, "A": 1}', '{"A": 0}', '{"A": 0, "B": NaN}', '{"B": 0}']) == (
        MULTILABEL,
        ("B", "A"),
        [[1, 1], [nan, 0], [nan, 0], [0, nan]],
    )
    assert read(['{"A": 1, "B": 0}', '{"A": 0, "B": 1}'], problem_type=MULTILABEL)[0] is MULTILABEL


def test_lists():
    expected = (MULTILABEL, ("a", "b", "c"), [[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    assert read(['["a", "b"]', '["c"]', "[]"]) == expected
    assert read(["b|a", " c ", ""]) == expected
    assert read(["a | b|", "c", "|"]) == expected
    assert read(['["b", "a", "a"]', "c", "[]"]) == expected
    assert read(["[2, 10]", "[10]"]) == (MULTILABEL, ("2", "10"), [[1, 1], [0, 1]])


def test_other_separators():
    parsed = column(["a;b", "c|d"], separator=";")
    assert infer_space(parsed).names == ("a", "b", "c|d")


def test_multilabel_test_file_without_a_separator():
    space = LabelSpace(("a", "b"), MULTILABEL)
    assert read(["a", "b"], space=space)[2] == [[1, 0], [0, 1]]


def test_binary_test_files_in_other_forms():
    space = LabelSpace(("positive",), BINARY)
    for cells in (["1", "0"], ["positive", "negative"], ['{"positive": 1}', '{"positive": 0}'], ['["positive"]', "[]"]):
        assert read(cells, space=space)[2] == [[1], [0]]
    assert read(["is_cat", "not is_cat"], space=LabelSpace(("is_cat",), BINARY))[2] == [[1], [0]]


@pytest.mark.parametrize(
    ("cells", "name", "words"),
    [
        (["0", "1", "2"], "completion", "row 3, column 'completion': must be 0, 1 or an object of labels, not 2"),
        (["0", "1", "0.5"], "expected_output", "row 3"),
        (["0", "1", "-1"], "completion", "row 3"),
        (["0", "1", "yes"], "completion", "row 3, column 'completion': must be 0 or 1, not 'yes'"),
        (["0", "1", '{"A": 1}'], "completion", "row 3, column 'completion': is an object where row 1 has a value"),
        (['{"A": 1}', "1"], "label", "row 2, column 'label': is a value where row 1 has an object"),
        (['{"A": 1}', '["A"]'], "label", "row 2, column 'label': is a list where row 1 has an object"),
        (["0", None], "label", "row 2, column 'label': no label"),
        (["0", "", "1"], "label", "row 2, column 'label': no label"),
        (["a", "b", " \t"], "label", "row 3, column 'label': no label"),
        (['{"A": 1}', '{"A": 2}'], "label", "row 2, column 'label': label 'A' must be 0 or 1"),
        (['{"A": 1}', '{"A": "1"}'], "label", "label 'A' must be 0 or 1"),
        (['{"A": 1}', '{"A": [1]}'], "label", "label 'A' must be 0 or 1"),
        (['{"A": 1}', '{"A": {"A": 1}}'], "label", "label 'A' must be 0 or 1"),
        (['{"A": 1}', '{"": 1}'], "label", "row 2, column 'label': a label must be a name"),
        (['{"A": 1}', '{"A": 1, "A": 0}'], "label", "row 2, column 'label': label 'A' stands twice"),
        (['{"A": 1}', '{"A": 1, " A": 0}'], "label", "label 'A' stands twice"),
        (['["a"]', '["a", 1.5]'], "label", "a label must be a name"),
        (['["a"]', "[[1]]"], "label", "a label must be a name"),
        (["[0, 1, 0]", "[1, 0, 0]"], "label", "row 1, column 'label': lists 0 twice"),  # flags, not names
        (['{"A": 1}', '{"A": 1'], "label", "row 2, column 'label': broken JSON"),
        (["a", "[b"], "label", "row 2, column 'label': broken JSON"),
        (['{"A": 1}', "[" * 100_000], "label", "row 2, column 'label': broken JSON"),
        (["1", "2", "4.5"], "stars", "row 3, column 'stars': 4.5 is a fraction"),
    ],
)
def test_refused_cells_name_the_row(cells, name, words):
    assert words in refused(DataError, cells, name)


def test_rows_are_counted_over_all_rows():
    assert "row 7," in refused(DataError, ["0", "1", "0", "1", "0", "1", "x", "x"], "completion")
    assert "row 3," in refused(DataError, ["a", "a", None, "b", None])


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["1", "1"], "every row has the same label (1)"),
        (["1", "true"], "same label"),
        (["a", "a"], "every row has the same label (a); a classifier needs at least two classes"),
        (['["a", "b"]', '["b", "a"]'], "every row has the same label (a, b)"),
        (['{"A": 1, "B": 0}', '{"B": 0, "A": 1}'], "every row has the same label (A)"),
        (['{"A": 1, "B": 0}', '{"A": 1}'], "every row has the same label (A)"),
        (['{"A": 0}', '{"A": 0, "B": 0}'], "no row has any label"),
        (["[]", "[]"], "no row has any label"),
        (["|", ""], "no row has any label"),
        (['{"A": 1, "B": 1}', '{"B": 1}'], "no label is ever 0; write 0"),  # what is not written is unknown
    ],
)
def test_one_class_alone(cells, words):
    message = refused(LabelError, cells)
    assert words in message
    assert "column 'label'" in message


def test_problem_types_that_do_not_fit():
    assert "labels.problem_type" in error_of(["a", "b"], BINARY)
    assert "exactly one" in refused(DataError, ["a|b", "c"], problem_type=MULTICLASS)
    assert "row 2, column 'label': has 2 labels" in refused(
        DataError, ['{"A": 1, "B": 0}', '{"A": 1, "B": 1}'], problem_type=MULTICLASS
    )
    assert "row 1, column 'label': has 0 labels" in refused(
        DataError, ['{"A": 0}'], space=LabelSpace(("A", "B"), MULTICLASS)
    )


def error_of(cells, problem_type):
    with pytest.raises(LabelError) as error:
        read(cells, problem_type=problem_type)
    return str(error.value)


@pytest.mark.parametrize(
    ("cells", "space", "named"),
    [
        (
            ["a", "d", "c", "d"],
            LabelSpace(("a", "b"), MULTICLASS),
            "row 2, column 'label': the first of 2 labels that training does not have: d, c;",
        ),
        (["a|z"], LabelSpace(("a", "b"), MULTILABEL), "row 1, column 'label': a label that training does not have: z;"),
        (['{"A": 1, "Z": 0}'], LabelSpace(("A", "B"), MULTILABEL), "have: Z;"),
        (["maybe"], LabelSpace(("positive",), BINARY), "have: maybe;"),
        (["1"], LabelSpace(("a", "b"), MULTICLASS), "have: 1;"),
    ],
)
def test_labels_that_training_lacks_are_named(cells, space, named):
    assert named in refused(LabelError, cells, space=space)


def test_many_and_long_unknown_labels_are_cut():
    cells = [f"{i} " + "x" * 500 for i in range(30)]
    message = refused(LabelError, cells, space=LabelSpace(("a", "b"), MULTICLASS))
    assert "row 1, column 'label': the first of 30 labels" in message
    assert "…" in message
    assert len(message) < 1000
    assert len(refused(DataError, ["0", "x" * 5000], "completion")) < 200


labels = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@steady
@given(st.lists(labels, min_size=1, max_size=4, unique_by=str.strip), st.data())
def test_any_names_survive_in_objects_and_lists(names, data):
    names = [name.strip() for name in names]
    rows = data.draw(st.lists(st.lists(st.sampled_from([0, 1, None]), min_size=len(names), max_size=len(names))))
    rows += [[1] * len(names), [0] * len(names)]
    space = LabelSpace(tuple(names), MULTILABEL)
    objects = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=bool(len(row) % 2)) for row in rows]
    assert read(objects, problem_type=MULTILABEL) == (MULTILABEL, tuple(names), rows)
    lists = [json.dumps([name for name, flag in zip(names, row, strict=True) if flag]) for row in rows]
    assert read(lists, space=space)[2] == [[int(flag or 0) for flag in row] for row in rows]


@steady
@given(st.lists(labels.filter(lambda name: name.strip()[0] not in "[{" and "|" not in name), min_size=1, max_size=6))
def test_any_names_survive_as_cells(cells):
    cells = [*cells, "one more", "and another"]
    kind, names, targets = read(cells)
    assert kind is MULTICLASS
    assert [names[row.index(1)] for row in targets] == [cell.strip() for cell in cells]


@steady
@given(st.lists(st.text('[]{}",:|01ab. ntrue-e\\', max_size=12) | st.text(), min_size=1, max_size=4))
def test_any_cells_give_targets_or_a_user_error(cells):
    for name in ("label", "completion"):
        try:
            read(cells, name)
        except UserError as error:
            assert len(str(error).splitlines()) == 1
