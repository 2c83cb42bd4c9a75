"""The label space, its JSON form, decisions, and targets in sparse and dense form."""
# tests are told by their names

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayclf.errors import LabelError, UserError
from rayclf.labels import LabelSpace, ProblemType, dense_targets, sparse_targets

# Told to be steady: the same examples each time, and no clock.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@st.composite
def spaces(draw):
    kind = draw(st.sampled_from(list(ProblemType)))
    least, most = {"binary": (1, 1), "multiclass": (2, 6), "multilabel": (1, 6)}[kind]
    found = tuple(draw(st.lists(names, min_size=least, max_size=most, unique=True)))
    some = st.sampled_from(found)
    ids = draw(st.dictionaries(some, st.text(min_size=1, max_size=3)))
    return LabelSpace(
        found,
        kind,
        draw(st.dictionaries(some, st.text())),
        {name: label_id for i, (name, label_id) in enumerate(ids.items()) if label_id not in [*ids.values()][:i]},
        draw(st.dictionaries(some, st.lists(names, min_size=1).map(tuple))),
    )


@steady
@given(spaces())
def test_json_round_trip(space):
    again = LabelSpace.from_json(space.to_json())
    assert again == space
    assert hash(again) == hash(space)
    assert [again.index[name] for name in again.names] == list(range(len(space)))
    assert pickle.loads(pickle.dumps(space)) == space
    assert all(space.lookup[name] == position for name, position in space.index.items())
    assert set(space.lookup.values()) <= set(range(len(space)))


@pytest.mark.parametrize(
    ("found", "kind", "words"),
    [
        (("a", ""), ProblemType.MULTICLASS, "empty"),
        (("a", " \t"), ProblemType.MULTICLASS, "empty"),
        (("a", "b", "a"), ProblemType.MULTILABEL, "repeat: a"),
        (("a", "b"), ProblemType.BINARY, "labels.problem_type"),
        ((), ProblemType.BINARY, "one label"),
        (("a",), ProblemType.MULTICLASS, "at least two"),
        ((), ProblemType.MULTILABEL, "empty"),
    ],
)
def test_refused_spaces(found, kind, words):
    with pytest.raises(LabelError, match=words):
        LabelSpace(found, kind)


def test_repeats_are_found_at_once_among_many_labels():
    many = tuple(f"label {i}" for i in range(50_000))
    with pytest.raises(LabelError, match=r"repeat: label 0;"):
        LabelSpace((*many, "label 0"), ProblemType.MULTICLASS)


def test_only_what_a_label_has_is_written():
    space = LabelSpace(("a", "b"), ProblemType.MULTILABEL, ids={"b": "1"}, alternatives={"b": ("x", "y")})
    assert space.to_json()["labels"] == [{"name": "a"}, {"name": "b", "id": "1", "alternatives": ["x", "y"]}]


def test_lookup():
    space = LabelSpace(
        ("a", "b", "c"),
        ProblemType.MULTILABEL,
        ids={"a": "1", "b": "a", "c": "3"},  # the id of b is the name of a
        alternatives={"a": ("3", "both", "only a", "only a"), "b": ("both", "c"), "c": ("both",)},
    )
    assert space.lookup == {"a": 0, "b": 1, "c": 2, "1": 0, "3": 2, "only a": 0}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ids": {"a": "1", "b": "1"}}, "label ids repeat: 1"),
        ({"ids": {"x": "1"}}, "unknown labels: x"),
        ({"alternatives": {"y": ("1",)}}, "unknown labels: y"),
    ],
)
def test_refused_ids_and_alternatives(more, words):
    with pytest.raises(LabelError, match=words):
        LabelSpace(("a", "b"), ProblemType.MULTICLASS, **more)


def test_every_message_is_one_line():
    with pytest.raises(LabelError) as error:
        LabelSpace(("a\nb", "a\nb", "c"), ProblemType.MULTILABEL)
    assert len(str(error.value).splitlines()) == 1
    assert str(UserError("one\r\ntwo\u2028three")) == "one two three"


def test_transformers_problem_types():
    assert ProblemType.MULTICLASS.transformers == "single_label_classification"
    assert ProblemType.BINARY.transformers == ProblemType.MULTILABEL.transformers == "multi_label_classification"


def test_name_of_the_negative_answer():
    assert LabelSpace(("positive",), ProblemType.BINARY).negative == "negative"
    assert LabelSpace(("is_cat",), ProblemType.BINARY).negative == "not is_cat"


def test_probabilities():
    logits = np.asarray([[1000.0, 0.0, -1000.0], [0.5, 0.5, 0.5]], np.float32)
    softmax = LabelSpace(("a", "b", "c"), ProblemType.MULTICLASS).probabilities(logits)
    np.testing.assert_allclose(softmax, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)
    sigmoid = LabelSpace(("a", "b", "c"), ProblemType.MULTILABEL).probabilities(logits)
    np.testing.assert_allclose(sigmoid, [[1, 0.5, 0], [0.62245935] * 3], rtol=1e-6)
    assert softmax.dtype == sigmoid.dtype == np.float32
    assert LabelSpace(("a", "b"), ProblemType.MULTICLASS).probabilities(np.empty((0, 2), np.float32)).shape == (0, 2)


def test_decide():
    p = np.asarray([[0.4, 0.35, 0.25], [0.2, 0.7, 0.7]], np.float32)
    thresholds = np.asarray([0.4, 0.5, 0.7], np.float32)
    one = LabelSpace(("a", "b", "c"), ProblemType.MULTICLASS).decide(p, thresholds)
    assert one.tolist() == [[True, False, False], [False, True, False]]  # ties: the first
    many = LabelSpace(("a", "b", "c"), ProblemType.MULTILABEL).decide(p, thresholds)
    assert many.tolist() == [[True, False, False], [False, True, True]]  # reaching the threshold is enough


@steady
@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, float("nan")]), min_size=4, max_size=4), max_size=8), st.data())
def test_dense_is_the_inverse_of_sparse(rows, data):
    dense = np.asarray(rows, np.float32).reshape(len(rows), 4)
    positive = sparse_targets([np.flatnonzero(row == 1).tolist() for row in dense])
    unknown = sparse_targets([np.flatnonzero(np.isnan(row)).tolist() for row in dense])
    np.testing.assert_array_equal(dense_targets(positive, unknown, 4), dense)
    start = data.draw(st.integers(0, len(rows)))
    np.testing.assert_array_equal(dense_targets(positive.slice(start), unknown.slice(start), 4), dense[start:])
    assert positive.type == pa.list_(pa.int32())


def test_best_and_held_labels():
    p = np.float32([[0.5, 0.3, 0.2], [0.125, 0.25, 0.75]])
    holds = np.array([[False, True, False], [True, False, True]])
    three = LabelSpace(("a", "b", "c"), ProblemType.MULTILABEL)
    assert three.best(p, holds) == [("a", 0.5), ("c", 0.75)]  # whether it holds or not
    assert three.held(holds) == [["b"], ["a", "c"]]
    one = LabelSpace(("spam",), ProblemType.BINARY)
    assert one.best(np.float32([[0.75], [0.75], [0.25]]), np.array([[True], [False], [False]])) == [
        ("spam", 0.75),
        ("not spam", 0.25),  # by its threshold
        ("not spam", 0.75),
    ]
    assert three.best(p[:0], holds[:0]) == three.held(holds[:0]) == []
