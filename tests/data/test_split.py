"""Stratified splits: whole, disjoint, repeatable, and without leaks."""
# tests are told by their names

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayclf.data.split import stratified_split
from rayclf.errors import DataError
from rayclf.labels import sparse_targets

# Told to be steady: the same examples each time, and no clock.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def rows_of(pairs):
    """Canonical rows of (text, positive labels) pairs."""
    return pa.table(
        {
            "id": [str(row) for row in range(len(pairs))],
            "text": pa.array([text for text, _ in pairs], pa.string()),
            "positive": sparse_targets([labels for _, labels in pairs]),
            "unknown": sparse_targets([[] for _ in pairs]),
        }
    )


def ids(table):
    return [int(row) for row in table["id"].to_pylist()]


MANY = rows_of([(f"text {i}", [i % 7 % 3]) for i in range(1000)])


pairs_of = st.lists(st.tuples(st.text("abcdefgh", max_size=2), st.lists(st.integers(0, 3), max_size=3, unique=True)))
shares_of = st.fixed_dictionaries({"test": st.sampled_from([0.0, 0.1, 0.4]), "validation": st.sampled_from([0.0, 0.3])})


@settings(steady, max_examples=200)
@given(pairs_of, shares_of, st.integers(0, 1000))
def test_parts_are_disjoint_complete_and_repeatable(pairs, shares, seed):
    table = rows_of(pairs)
    try:
        parts = stratified_split(table, shares, seed)
    except DataError:
        assert any(shares.values())
        return
    assert list(parts) == [*shares, "train"]
    assert sorted(row for part in parts.values() for row in ids(part)) == list(range(len(pairs)))
    assert all(ids(part) == sorted(ids(part)) for part in parts.values())
    place = {text: name for name, part in parts.items() for text in part["text"].to_pylist()}
    for name, part in parts.items():
        assert all(place[text] == name for text in part["text"].to_pylist())  # equal texts in one part
        assert part.equals(table.take(pa.array(ids(part), pa.int64())))
        assert name == "train" or shares[name] or not part.num_rows
    again = stratified_split(table, shares, seed)
    assert {name: ids(part) for name, part in again.items()} == {name: ids(part) for name, part in parts.items()}


@settings(steady, max_examples=200)
@given(st.lists(st.tuples(st.text("abcdefgh", max_size=2), st.integers(0, 4)), min_size=1, unique_by=lambda p: p[0]))
def test_every_label_keeps_a_training_row(pairs):
    table = rows_of([(text, [label]) for text, label in pairs])
    try:
        train = stratified_split(table, {"test": 0.45, "validation": 0.45}, 3)["train"]
    except DataError:
        return
    assert {label for labels in train["positive"].to_pylist() for label in labels} == {label for _, label in pairs}


def test_the_rarest_label_of_a_text_that_has_several_stays_in_training():
    """Of label 1 there is one row, whose text also stands under label 0: its text must not be held out."""
    for seed in range(30):
        pairs = [("shared", [0]), *((f"text {i}", [0]) for i in range(9)), ("shared", [1])]
        train = stratified_split(rows_of(pairs), {"test": 0.5}, seed)["train"]
        assert [1] in train["positive"].to_pylist()


def test_shares_and_strata():
    parts = stratified_split(MANY, {"test": 0.1, "validation": 0.2}, 17)
    assert 95 <= parts["test"].num_rows <= 105
    assert 195 <= parts["validation"].num_rows <= 205
    counts = [sum(row[0] == label for row in MANY["positive"].to_pylist()) for label in range(3)]
    for label, count in enumerate(counts):
        held = sum(row[0] == label for row in parts["test"]["positive"].to_pylist())
        assert abs(held - 0.1 * count) <= 1


def test_many_small_strata_give_the_share_in_sum():
    table = rows_of([(f"text {i}", [i // 3]) for i in range(1500)])
    parts = stratified_split(table, {"test": 0.1}, 17)
    assert 110 <= parts["test"].num_rows <= 190
    assert {row[0] for row in parts["train"]["positive"].to_pylist()} == set(range(500))


def test_rows_without_a_label_are_parted_too():
    parts = stratified_split(rows_of([(str(i), []) for i in range(100)]), {"test": 0.1}, 17)
    assert parts["test"].num_rows == 10


def test_the_seed_matters_and_the_row_order_does_not():
    shares = {"test": 0.1, "validation": 0.1}
    one, other = (set(stratified_split(MANY, shares, seed)["test"]["text"].to_pylist()) for seed in (17, 18))
    assert one != other
    backwards = MANY.take(pa.array(range(MANY.num_rows - 1, -1, -1)))
    assert set(stratified_split(backwards, shares, 17)["test"]["text"].to_pylist()) == one


def test_the_split_is_stable_over_versions():
    """A test part that changes with a release makes its results unlike the earlier ones."""
    table = rows_of([(f"text {i}", [i % 2]) for i in range(40)])
    parts = stratified_split(table, {"test": 0.1, "validation": 0.1}, 17)
    assert (ids(parts["test"]), ids(parts["validation"])) == GOLDEN


GOLDEN = ([15, 26, 32, 33], [0, 19, 24, 27])


@pytest.mark.parametrize("pairs", [[("a", [0])], [("a", [0]), ("b", [1])], [("same", [0])] * 50])
def test_too_few_rows(pairs):
    with pytest.raises(DataError, match=r"too few rows \(\d+\) to hold out a test part; set data.test to 0"):
        stratified_split(rows_of(pairs), {"test": 0.1}, 17)


@pytest.mark.parametrize("rows", [10, 12, 20])
def test_a_small_file_still_gives_each_part_a_row(rows):
    table = rows_of([(f"text {i}", [i % 2]) for i in range(rows)])
    for seed in range(20):
        parts = stratified_split(table, {"test": 0.1, "validation": 0.1}, seed)
        assert all(part.num_rows for part in parts.values())
        assert {label for labels in parts["train"]["positive"].to_pylist() for label in labels} == {0, 1}


def test_no_shares():
    parts = stratified_split(MANY, {}, 17)
    assert list(parts) == ["train"]
    assert parts["train"].equals(MANY)
