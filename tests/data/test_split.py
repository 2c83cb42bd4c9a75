"""Splits: whole, disjoint, repeatable, without leaks, and steady under added rows."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from rayclf.data.split import assign_by_time, assign_parts, mixed
from rayclf.errors import DataError
from rayclf.labels import sparse_targets

# Told to be steady: the same examples each time, and no clock.
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
TENTHS = {"test": 0.1, "validation": 0.1}
METHODS = ["stratified", "random", "group"]

rows_of = st.lists(st.tuples(st.integers(0, 40), st.lists(st.integers(0, 4), max_size=3, unique=True)), max_size=60)
shares_of = st.fixed_dictionaries({"test": st.sampled_from([0.0, 0.1, 0.4]), "validation": st.sampled_from([0.0, 0.3])})


def assign(identity, labels_of, shares, method="stratified", seed=17):
    labels = max((label for held in labels_of for label in held), default=-1) + 1
    identity = np.array(identity, dtype=np.uint64)
    return assign_parts(identity, sparse_targets(labels_of), shares, method=method, seed=seed, labels=labels)


def counts_of(part, labels_of, parts=3):
    """Rows of each label in each part, ``[labels, parts]``."""
    rows = np.repeat(part, [len(held) for held in labels_of])
    flat = np.array([label for held in labels_of for label in held])
    return np.array([np.bincount(rows[flat == label], minlength=parts) for label in range(flat.max() + 1)])


def assert_within_bounds(counts, shares):
    total = counts.sum(axis=1)
    for number, share in enumerate(shares.values(), start=1):
        goal = np.round(total * share, 9)
        assert (counts[:, number] >= np.maximum(np.floor(goal / 2), goal >= 1)).all()
        assert (counts[:, number] <= np.ceil(1.5 * goal)).all()
    assert (counts[total > 0, 0] > 0).all()


@pytest.mark.parametrize("method", METHODS)
@settings(steady, max_examples=150)
@given(rows_of, shares_of, st.integers(-5, 1000), st.randoms())
def test_equal_identities_stay_together_and_the_order_is_of_no_matter(method, rows, shares, seed, random):
    identity, labels_of = [one for one, _ in rows], [held for _, held in rows]
    distinct, held_out = len(set(identity)), sum(share > 0 for share in shares.values())
    if held_out and distinct <= held_out:
        with pytest.raises(DataError, match=rf"too few rows \({len(rows)}\) to hold out a (test|validation) part"):
            assign(identity, labels_of, shares, method, seed)
        return
    part = assign(identity, labels_of, shares, method, seed)
    assert part.dtype == np.int8
    assert len(part) == len(rows)
    assert len(set(zip(identity, part.tolist(), strict=True))) == distinct
    wanted = {0, *(number for number, share in enumerate(shares.values(), start=1) if share)}
    assert set(part.tolist()) == (wanted if rows else set())
    order = list(range(len(rows)))
    random.shuffle(order)
    mixed_up = assign([identity[i] for i in order], [labels_of[i] for i in order], shares, method, seed)
    assert mixed_up.tolist() == part[order].tolist()


@pytest.mark.parametrize("method", ["random", "group"])
@settings(steady, max_examples=150)
@given(st.sets(st.integers(0, 2**64 - 1), min_size=30), st.sets(st.integers(0, 2**64 - 1)), st.integers(0, 100))
def test_rows_added_move_none(method, old, new, seed):
    old = sorted(old)
    place = (mixed(np.array(old, np.uint64), seed) >> np.uint64(11)) * 2.0**-53
    assume((place < 0.2).any() and ((place >= 0.2) & (place < 0.5)).any())  # no part was filled for want of rows
    shares = {"test": 0.2, "validation": 0.3}
    before = assign(old, [[]] * len(old), shares, method, seed)
    every = [*sorted(new - set(old)), *old]
    after = assign(every, [[]] * len(every), shares, method, seed)
    assert after[len(every) - len(old) :].tolist() == before.tolist()


def test_rows_added_move_few_of_a_stratified_split():
    labels_of = [[i % 4] for i in range(960)]
    for seed in range(20):
        before = assign(range(800), labels_of[:800], TENTHS, seed=seed)
        after = assign(range(960), labels_of, TENTHS, seed=seed)
        assert (before != after[:800]).mean() <= 0.01


@settings(steady, max_examples=200)
@given(st.lists(st.integers(0, 5), min_size=40, max_size=300), st.integers(0, 1000))
def test_every_label_keeps_its_share_within_bounds(labels, seed):
    labels_of = [[label] for label in labels]
    shares = {"test": 0.2, "validation": 0.1}
    assert_within_bounds(counts_of(assign(range(len(labels)), labels_of, shares, seed=seed), labels_of), shares)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_a_rare_label_keeps_a_row_in_train(rows):
    labels_of = [[0]] * 200 + [[1]] * rows
    for seed in range(50):
        part = assign(range(200 + rows), labels_of, {"test": 0.45, "validation": 0.45}, seed=seed)
        assert_within_bounds(counts_of(part, labels_of), {"test": 0.45, "validation": 0.45})


def multilabel(rows, labels, seed=3):
    """Rows with one to three labels whose frequencies fall as GoEmotions' do, to a 300th of the commonest."""
    draw = np.random.default_rng(seed)
    weights = np.geomspace(1, 1 / 300, labels)
    size = draw.choice([1, 2, 3], rows, p=[0.8, 0.16, 0.04])
    return [draw.choice(labels, n, replace=False, p=weights / weights.sum()).tolist() for n in size]


@pytest.mark.parametrize("rows", [600, 5000])
def test_many_labels_a_row_stay_within_bounds(rows):
    labels_of = multilabel(rows, 28)
    for seed in range(5):
        part = assign(range(rows), labels_of, TENTHS, seed=seed)
        assert_within_bounds(counts_of(part, labels_of), TENTHS)
        assert (np.abs(np.bincount(part) / rows - [0.8, 0.1, 0.1]) < 0.05).all()


def test_mending_moves_few():
    labels_of = multilabel(5000, 28)
    base = assign(range(5000), labels_of, TENTHS, "random")
    assert 0 < (assign(range(5000), labels_of, TENTHS) != base).sum() < 50


def test_a_rare_label_is_not_undone_for_a_common_one():
    """All rows of label 0 hold a label of their own too, which only train may have."""
    labels_of = [[0, 1 + i] for i in range(50)] + [[]] * 50
    part = assign(range(100), labels_of, {"test": 0.3})
    assert not part[:50].any()
    assert part[50:].any()


def test_25_000_labels_of_falling_frequency():
    labels = np.minimum(np.random.default_rng(5).zipf(1.3, 100_000) - 1, 24_999)
    positive = pa.ListArray.from_arrays(np.arange(100_001, dtype=np.int32), labels.astype(np.int32))
    identity = np.arange(100_000, dtype=np.uint64)
    part = assign_parts(identity, positive, TENTHS, method="stratified", seed=1, labels=25_000)
    assert_within_bounds(np.bincount(labels * 3 + part, minlength=75_000).reshape(-1, 3), TENTHS)
    assert (np.abs(np.bincount(part) / 100_000 - [0.8, 0.1, 0.1]) < 0.02).all()


def test_a_slice_of_rows_is_read_from_its_own_start():
    labels_of = [[i % 3] for i in range(300)]
    whole = sparse_targets([[2]] * 7 + labels_of).slice(7)
    part = assign_parts(np.arange(300, dtype=np.uint64), whole, TENTHS, method="stratified", seed=17, labels=3)
    assert part.tolist() == assign(range(300), labels_of, TENTHS).tolist()


def test_shares_are_met_in_expectation_and_seeds_differ():
    parts = [assign(range(10_000), [[]] * 10_000, {"test": 0.1, "validation": 0.3}, "random", s) for s in range(10)]
    shares = np.mean([np.bincount(part) / 10_000 for part in parts], axis=0)
    assert shares == pytest.approx([0.6, 0.1, 0.3], abs=0.005)
    agree = (parts[0] == 1) & (parts[1] == 1)
    assert agree.mean() == pytest.approx(0.01, abs=0.004)  # as chance would have it


def test_the_hash_is_one_to_one_and_parts_purposes():
    identity = np.arange(100_000, dtype=np.uint64)
    hashes = [mixed(identity, seed, purpose) for seed in (0, 1, 2**70, -1) for purpose in (0, 1)]
    assert all(len(np.unique(one)) == 100_000 for one in hashes)
    assert len({one[5] for one in hashes}) == 6  # 2**70 and 0 are one seed, modulo 2**64
    bits = np.unpackbits(hashes[0].view(np.uint8).reshape(-1, 8), axis=1)
    assert (np.abs(bits.mean(axis=0) - 0.5) < 0.01).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_small_file_still_gives_each_part_a_row(method):
    for rows in (3, 10, 20):
        for seed in range(20):
            part = assign(range(rows), [[i % 2] for i in range(rows)], TENTHS, method, seed)
            assert set(part) == {0, 1, 2}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("identity", [[], [1], [1] * 50])
def test_too_few_rows(method, identity):
    with pytest.raises(DataError, match=r"too few rows \(\d+\) to hold out a test part; set data.test to 0"):
        assign(identity, [[0]] * len(identity), {"test": 0.1}, method)


@pytest.mark.parametrize("method", METHODS)
def test_no_shares(method):
    assert not assign(range(5), [[0]] * 5, {}, method).any()
    assert not assign([], [], {}, method).size


@settings(steady, max_examples=200)
@given(st.lists(st.integers(-9, 9), max_size=60), shares_of)
def test_time_goes_from_train_to_test_and_ties_stay_together(times, shares):
    held = [number for number, share in enumerate(shares.values(), start=1) if share]
    if held and len(set(times)) <= len(held):
        with pytest.raises(DataError, match=r"too few different times \(\d+\)"):
            assign_by_time(np.array(times, dtype=np.int64), shares)
        return
    part = assign_by_time(np.array(times, dtype=np.int64), shares)
    assert set(part.tolist()) == ({0, *held} if times else set())
    assert len(set(zip(times, part.tolist(), strict=True))) == len(set(times))
    newest_first = [number for _, number in sorted(zip(times, part.tolist(), strict=True), reverse=True)]
    changes = [one for one, before in zip(newest_first, [None, *newest_first], strict=False) if one != before]
    assert changes == ([*held, 0] if times else [])


def test_time_meets_the_shares():
    times = np.random.default_rng(1).permutation(1000) / 7
    part = assign_by_time(times, {"test": 0.1, "validation": 0.25})
    assert np.bincount(part).tolist() == [650, 100, 250]
    assert times[part == 1].min() > times[part == 2].max() > times[part == 0].max()


def test_a_row_without_a_time():
    with pytest.raises(DataError, match=r"data.split_column: 1 row\(s\) have no time"):
        assign_by_time(np.array([1.0, np.nan, 2.0]), {"test": 0.1})


def table_of(pairs):
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


GOLDEN = ([2, 8, 26, 27, 35, 39], [4, 16, 24, 33])
