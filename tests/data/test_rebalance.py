"""Rebalancing: exact where it can be, near where labels overlap, repeatable, and clear about what it refuses."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayclf.data.rebalance import MOST_REPEATS, downsample, rebalance
from rayclf.errors import ConfigError, LabelError
from rayclf.labels import ProblemType, sparse_targets

steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
PETS = ("cat", "dog", "bird")


def balance(labels_of, targets, names=PETS, kind=ProblemType.MULTICLASS, seed=17, identity=None):
    identity = np.arange(len(labels_of)) if identity is None else identity
    return rebalance(sparse_targets(labels_of), names, kind, targets, np.array(identity, dtype=np.uint64), seed)


def written(labels_of, repeats, labels):
    """Written rows that hold each label."""
    return [sum(int(n) for held, n in zip(labels_of, repeats, strict=True) if label in held) for label in range(labels)]


@settings(steady, max_examples=200)
@given(
    st.lists(st.integers(0, 2), max_size=80).map(lambda more: [0, 1, 2, *more]),
    st.lists(st.integers(1, 97), min_size=2, max_size=2),
    st.integers(0, 99),
)
def test_shares_keep_the_number_of_rows_and_are_met_exactly(labels, cuts, seed):
    first, second = sorted(cuts)
    shares = [first / 100, (second - first + 1) / 100, (99 - second) / 100]
    labels_of = [[label] for label in labels]
    made = balance(labels_of, dict(zip(PETS, shares, strict=True)), seed=seed)
    assert made.repeats.dtype == np.int32
    assert made.repeats.sum() == len(labels)
    for label, (name, share) in enumerate(zip(PETS, shares, strict=True)):
        mine = made.repeats[np.array(labels) == label]
        assert abs(mine.sum() - share * len(labels)) < 1
        assert mine.max() - mine.min() <= 1
        assert made.reached[name]["rows"] == mine.sum()
        assert made.reached[name]["share"] == pytest.approx(mine.sum() / len(labels))


@settings(steady, max_examples=200)
@given(
    st.lists(st.integers(0, 2), max_size=80).map(lambda more: [0, 1, 2, *more]),
    st.dictionaries(st.sampled_from(PETS), st.integers(1, 300)),
    st.randoms(),
)
def test_counts_are_exact_and_the_order_is_of_no_matter(labels, targets, random):
    made = balance([[label] for label in labels], targets)
    counts = written([[label] for label in labels], made.repeats, 3)
    assert counts == [targets.get(name, labels.count(label)) for label, name in enumerate(PETS)]
    order = list(range(len(labels)))
    random.shuffle(order)
    again = balance([[labels[i]] for i in order], targets, identity=order)
    assert again.repeats.tolist() == made.repeats[order].tolist()


def test_what_was_reached():
    made = balance([[0]] * 8 + [[1]] * 2, {"cat": 4, "dog": 6})
    assert made.reached == {
        "cat": {"asked": 4, "before": 8, "rows": 4, "share": 0.4},
        "dog": {"asked": 6, "before": 2, "rows": 6, "share": 0.6},
    }
    assert made.repeats[8:].tolist() == [3, 3]


def test_the_seed_chooses_the_rows():
    one, same, other = (balance([[0]] * 100 + [[1]], {"cat": 10}, seed=seed).repeats.tolist() for seed in (1, 1, 2))
    assert one == same != other


def test_a_label_without_rows_need_not_be_named():
    assert balance([[0], [0], [1], [1]], {"cat": 0.25, "dog": 0.75}).repeats.sum() == 4


@pytest.mark.parametrize(
    "targets",
    [{"spam": 0.5, "not spam": 0.5}, {"positive": 0.5, "negative": 0.5}, {"spam": 5, "negative": 5}, {"negative": 1}],
)
def test_binary_takes_the_names_of_both_sides(targets):
    labels_of = [[0]] * 2 + [[]] * 8
    made = balance(labels_of, targets, names=("spam",), kind=ProblemType.BINARY)
    left = (2, 1) if len(targets) == 1 else (5, 5)
    assert (made.repeats[:2].sum(), made.repeats[2:].sum()) == left
    assert list(made.reached) == list(targets)
    assert made.reached["negative" if "negative" in targets else "not spam"]["before"] == 8


def test_a_binary_label_that_is_named_negative():
    made = balance([[0]] * 2 + [[]] * 8, {"negative": 5}, names=("negative",), kind=ProblemType.BINARY)
    assert made.repeats[:2].sum() == 5


def emotions(rows=8000, labels=28, seed=3):
    """Rows with none to three labels whose frequencies fall as GoEmotions' do."""
    draw = np.random.default_rng(seed)
    weights = np.geomspace(1, 1 / 150, labels)
    size = draw.choice([0, 1, 2, 3], rows, p=[0.02, 0.78, 0.16, 0.04])
    return [draw.choice(labels, n, replace=False, p=weights / weights.sum()).tolist() for n in size]


EMOTIONS = tuple(f"emotion {i}" for i in range(28))
FEELINGS = emotions()


def test_multilabel_shares_are_neared_and_the_number_of_rows_kept():
    targets = dict.fromkeys(EMOTIONS, 0.04)
    made = balance(FEELINGS, targets, EMOTIONS, ProblemType.MULTILABEL)
    assert made.repeats.sum() == 8000
    assert 0 <= made.repeats.min() <= made.repeats.max() <= MOST_REPEATS
    before = np.array([made.reached[name]["before"] for name in EMOTIONS])
    after = np.array([made.reached[name]["rows"] for name in EMOTIONS])
    assert after.tolist() == written(FEELINGS, made.repeats, 28)
    assert np.abs(before - 320).max() > 1000
    assert np.abs(after - 320).max() <= 5


def test_multilabel_counts_leave_other_rows_alone():
    targets = {"emotion 0": 300, "emotion 27": 200, "emotion 20": 90}
    made = balance(FEELINGS, targets, EMOTIONS, ProblemType.MULTILABEL)
    for name, asked in targets.items():
        assert abs(made.reached[name]["rows"] - asked) <= 2
    others = [n for held, n in zip(FEELINGS, made.repeats, strict=True) if not {0, 20, 27} & set(held)]
    assert set(others) == {1}


def test_multilabel_rows_are_chosen_in_any_order():
    order = np.random.default_rng(1).permutation(len(FEELINGS))
    targets = {"emotion 0": 0.1, "emotion 9": 0.2}
    made = balance(FEELINGS, targets, EMOTIONS, ProblemType.MULTILABEL)
    again = balance([FEELINGS[i] for i in order], targets, EMOTIONS, ProblemType.MULTILABEL, identity=order)
    assert again.repeats.tolist() == made.repeats[order].tolist()
    assert made.reached["emotion 0"]["share"] == pytest.approx(0.1, abs=0.001)
    plain = [n for held, n in zip(FEELINGS, made.repeats, strict=True) if not {0, 9} & set(held)]
    assert 0.7 < np.mean(plain) < 1.5


def test_targets_that_contradict_each_other_are_neared():
    labels_of = [[0, 1]] * 50 + [[]] * 50
    made = balance(labels_of, {"cat": 0.2, "dog": 0.6}, kind=ProblemType.MULTILABEL)
    assert made.repeats.sum() == 100
    assert made.reached["cat"]["rows"] == made.reached["dog"]["rows"]
    assert 20 <= made.reached["cat"]["rows"] <= 60


def test_a_row_is_not_repeated_without_end():
    made = balance([[0]] + [[1]] * 999, {"cat": 0.5}, kind=ProblemType.MULTILABEL)
    assert made.repeats.sum() == 1000
    assert made.repeats[0] == MOST_REPEATS == made.reached["cat"]["rows"]
    assert balance([[0], [1]], {"cat": 5000}, kind=ProblemType.MULTILABEL).repeats.tolist() == [MOST_REPEATS, 1]


@settings(steady, max_examples=150)
@given(
    st.lists(st.lists(st.integers(0, 2), max_size=3, unique=True), max_size=40).map(
        lambda more: [[0], [1], [2], *more]
    ),
    st.dictionaries(st.sampled_from(PETS), st.floats(0.01, 0.99), min_size=1),
)
def test_any_multilabel_shares_give_as_many_rows(labels_of, targets):
    made = balance(labels_of, targets, kind=ProblemType.MULTILABEL)
    assert made.repeats.sum() == len(labels_of)
    assert made.repeats.min() >= 0
    assert made.repeats.max() <= MOST_REPEATS


def test_many_labels_and_a_slice():
    labels = np.random.default_rng(1).integers(0, 5000, 60_000).astype(np.int32)
    positive = pa.ListArray.from_arrays(np.arange(0, 60_001, 3, dtype=np.int32), labels).slice(10)
    names = [str(i) for i in range(5000)]
    targets = dict.fromkeys(names[::50], 20)
    made = rebalance(positive, names, ProblemType.MULTILABEL, targets, np.arange(19_990, dtype=np.uint64), 1)
    assert sum(abs(one["rows"] - 20) for one in made.reached.values()) < 100


@pytest.mark.parametrize("kind", [ProblemType.MULTICLASS, ProblemType.MULTILABEL])
def test_nothing_asked_changes_nothing(kind):
    made = balance([[0], [1], [2]], {}, kind=kind)
    assert made.repeats.tolist() == [1, 1, 1]
    assert made.reached == {}
    assert not balance([], {}, kind=kind).repeats.size


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ({"cats": 5}, LabelError, "data.rebalance: no label 'cats'; did you mean 'cat'?"),
        ({"zebra": 5}, LabelError, "data.rebalance: no label 'zebra'; known here: cat, dog, bird"),
        ({"bird": 5}, LabelError, "data.rebalance: 'bird' has no training row"),
        ({"cat": 0.5}, LabelError, "data.rebalance: shares must name every label; missing: dog"),
        ({"cat": 0.5, "dog": 0.4}, ConfigError, "data.rebalance: the shares sum to 0.9; they must sum to 1"),
        ({"cat": 0.5, "dog": 4}, ConfigError, "data.rebalance: mixes shares (cat: 0.5) and numbers of rows (dog: 4)"),
        ({"cat": 2.5}, ConfigError, "data.rebalance: cat: 2.5 is neither"),
        ({"cat": float("nan")}, ConfigError, "data.rebalance: cat: nan is neither"),
        ({"cat": 1e12}, ConfigError, "data.rebalance: cat: 1e+12 is neither"),
        ({"cat": -1}, ConfigError, "data.rebalance: cat: -1 is neither"),
    ],
)
def test_what_is_refused(targets, error, message):
    with pytest.raises(error) as raised:
        balance([[0], [0], [1]], targets)
    assert str(raised.value).startswith(message)


def test_a_side_named_twice():
    with pytest.raises(ConfigError, match="named twice"):
        balance([[0], []], {"spam": 1, "positive": 1}, names=("spam",), kind=ProblemType.BINARY)


@settings(steady, max_examples=200)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=80), st.integers(0, 99), st.randoms())
def test_downsampling_keeps_the_amount(identity, seed, random):
    identity = np.array(identity, dtype=np.uint64)
    rows = len(identity)
    for amount, count in [(0.25, max(int(rows / 4 + 0.5), min(rows, 1))), (1, rows), (10, min(10, rows))]:
        kept = downsample(identity, amount, seed)
        assert kept.dtype == np.bool_
        assert kept.sum() == count
        order = list(range(rows))
        random.shuffle(order)
        assert sorted(identity[order][downsample(identity[order], amount, seed)]) == sorted(identity[kept])


def test_a_smaller_sample_is_part_of_a_greater():
    identity = np.arange(1000, dtype=np.uint64)
    small, great = downsample(identity, 100, 5), downsample(identity, 0.5, 5)
    assert not (small & ~great).any()
    assert (downsample(identity, 100, 6) != small).any()


@pytest.mark.parametrize("amount", [0, -1, 1.5, float("nan"), float("inf")])
def test_amounts_that_are_refused(amount):
    with pytest.raises(ConfigError, match="data.downsample: "):
        downsample(np.arange(5, dtype=np.uint64), amount, 1)
