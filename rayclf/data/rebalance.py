"""How often each training row is written, so that labels come in the shares or counts that were asked for.

Rows are removed and repeated, never made up, and by a hash of themselves: the same rows and seed give the same choice
in any order. Works on an index without texts, as :mod:`rayclf.data.split`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayclf.data.split import Identity, mixed
from rayclf.errors import ConfigError, LabelError
from rayclf.labels import LabelSpace, ProblemType

MOST_REPEATS = 100  # of one row of a multilabel task: beyond, it is learned by heart and shifts the labels it has too
_REBALANCE, _DOWNSAMPLE = 1, 2  # purposes of the hash
_ROUNDS = 300

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rebalanced:
    """``repeats`` (``int32[n]``) says how often each row is written, 0 for a removed one.

    ``reached`` has for each label that was named what was ``asked`` (a share or a count), the ``rows`` that hold it
    ``before`` and now, and their ``share`` of all rows now.
    """

    repeats: npt.NDArray[np.int32]
    reached: dict[str, dict[str, float]]


def rebalance(
    positive: pa.ListArray,
    names: Sequence[str],
    problem_type: ProblemType,
    targets: Mapping[str, float],
    identity: Identity,
    seed: int,
) -> Rebalanced:
    """Choose repeats of the training rows that bring labels to ``targets``.

    Targets below 1 are shares of the rows and keep the number of rows; whole numbers from 1 are counts of rows, and
    rows of labels that are not named stay as they are. ``positive`` lists the positions in ``names`` of the labels
    that hold; a binary task also takes ``positive``, ``negative`` and ``not <label>``.

    Binary and multiclass targets are met exactly: each row of a label is repeated equally often, give or take one.
    Shares name every label that has rows, sum to 1, and are rounded by largest remainder. A row for which a binary
    label is unknown counts as negative.

    Multilabel shares are of the rows that hold a label, so they need not sum to 1. Rows with the same named labels
    get one weight, the product of a factor for each: the weights nearest to 1 (in Kullback-Leibler divergence) that
    meet the targets, found by generalised iterative scaling (Darroch & Ratcliff, "Generalized iterative scaling for
    log-linear models", Ann. Math. Statist. 43, 1972). Targets that contradict each other are met as nearly as they
    can be, and no row stands more than 100 times. Rows with none of the named labels stay as they are for counts; for
    shares they give or take what keeps the number of rows. Weights become whole numbers by systematic sampling
    (Madow & Madow, Ann. Math. Statist. 15, 1944) over rows sorted by their rarest label, so that sums stay close.

    Raises LabelError for an unknown label, one without a training row, or one that the shares leave out; ConfigError
    for values that are neither all shares nor all counts, or shares that do not sum to 1.
    """
    are_shares = _check_values(targets)
    single = problem_type is not ProblemType.MULTILABEL
    offsets = positive.offsets.to_numpy().astype(np.int64)
    sizes, values = np.diff(offsets), positive.flatten().to_numpy().astype(np.int64)
    sides = list(names)
    if problem_type is ProblemType.BINARY:
        sides = [names[0], LabelSpace(tuple(names), problem_type).negative]
        values, sizes = np.where(sizes > 0, 0, 1), np.ones_like(sizes)
    before = np.bincount(values, minlength=len(sides))
    asked = _positions(targets, sides, problem_type, before)
    if single and are_shares:
        _check_shares(targets, asked, sides, before)
    chosen = np.array(list(asked), dtype=np.int64)
    wanted = np.array(list(asked.values()), dtype=np.float64)
    key = mixed(identity, seed, _REBALANCE)
    if single:
        group = np.full(len(sizes), len(sides))  # rows without a label, which have no target
        group[sizes > 0] = values[(np.cumsum(sizes) - sizes)[sizes > 0]]
        totals = np.append(before, np.count_nonzero(sizes == 0))
        totals[chosen] = _largest_remainder(wanted, int(before.sum())) if are_shares else wanted
        repeats = _repeat_evenly(group, totals, key)
    else:
        local = np.full(len(sides), -1)
        local[chosen] = np.arange(len(chosen))
        row, label = np.repeat(np.arange(len(sizes)), sizes), local[values]
        row, label = row[label >= 0], label[label >= 0]
        repeats = _repeat_sets(row, label, wanted, key, are_shares)
    rows = np.bincount(values, weights=np.repeat(repeats, sizes), minlength=len(sides))
    total = max(int(repeats.sum()), 1)
    reached = {
        name: {
            "asked": float(targets[name]),
            "before": float(before[position]),
            "rows": float(rows[position]),
            "share": float(rows[position] / total),
        }
        for name, position in zip(targets, asked, strict=True)
    }
    return Rebalanced(repeats, reached)


def downsample(identity: Identity, amount: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows to keep, ``bool[n]``: a share of them up to 1, which keeps all, or above 1 that number of rows.

    Exactly ``amount`` rows are kept, or its share rounded but no less than one row; all where there are fewer. A row's
    identity and the seed decide, so the rows of a smaller amount are among those of a greater. Raises ConfigError for
    an amount that is not above 0, or above 1 and not whole.
    """
    if not (amount > 0 and (amount <= 1 or float(amount).is_integer())):
        raise ConfigError(f"data.downsample: {amount:g} is neither a share up to 1 nor a whole number of rows")
    rows = len(identity)
    count = min(max(math.floor(amount * rows + 0.5), 1) if amount <= 1 else int(amount), rows)
    kept = np.zeros(rows, dtype=np.bool_)
    kept[np.argsort(mixed(identity, seed, _DOWNSAMPLE), kind="stable")[:count]] = True
    return kept


def _check_values(targets: Mapping[str, float]) -> bool:
    """Whether the targets are shares, and not counts; raises ConfigError for values that are neither."""
    for name, value in targets.items():
        if not (0 < value < 1 or (value >= 1 and float(value).is_integer() and value < 2**31)):
            raise ConfigError(
                f"data.rebalance: {name}: {value:g} is neither a share below 1 nor a whole number of rows"
            )
    share = next((name for name, value in targets.items() if value < 1), None)
    count = next((name for name, value in targets.items() if value >= 1), None)
    if share is not None and count is not None:
        raise ConfigError(
            f"data.rebalance: mixes shares ({share}: {targets[share]:g}) and numbers of rows "
            f"({count}: {targets[count]:g}); give one kind"
        )
    return share is not None


def _positions(
    targets: Mapping[str, float], sides: list[str], problem_type: ProblemType, before: Ints
) -> dict[int, float]:
    """The targets by position; raises LabelError for a label that is unknown or has no row."""
    index = {name: position for position, name in enumerate(sides)}
    if problem_type is ProblemType.BINARY:
        index = {"positive": 0, "negative": 1, f"not {sides[0]}": 1} | index
    asked: dict[int, float] = {}
    for name, value in targets.items():
        position = index.get(name)
        if position is None:
            near = difflib.get_close_matches(name, index, n=1)
            known = ", ".join(list(index)[:10]) + (", …" if len(index) > 10 else "")
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {known}"
            raise LabelError(f"data.rebalance: no label '{name}'; {hint}")
        if position in asked:
            raise ConfigError(f"data.rebalance: '{name}' is named twice; name each side once")
        if not before[position]:
            raise LabelError(f"data.rebalance: '{name}' has no training row to repeat; remove it or add rows of it")
        asked[position] = value
    return asked


def _check_shares(targets: Mapping[str, float], asked: Mapping[int, float], sides: list[str], before: Ints) -> None:
    missing = [sides[i] for i in np.flatnonzero(before).tolist() if i not in asked]
    if missing:
        more = ", …" if len(missing) > 10 else ""
        raise LabelError(
            f"data.rebalance: shares must name every label; missing: {', '.join(missing[:10])}{more}; "
            "add them or give numbers of rows"
        )
    total = sum(targets.values())
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"data.rebalance: the shares sum to {total:g}; they must sum to 1")


def _largest_remainder(shares: Floats, total: int) -> Ints:
    """Whole numbers in proportion to ``shares`` that sum to ``total`` (Hamilton's method)."""
    exact = shares / shares.sum() * total
    whole = np.floor(exact + 1e-9).astype(np.int64)
    largest = np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]
    whole[largest] += 1
    return whole


def _repeat_evenly(group: npt.NDArray[np.intp], totals: Ints, key: Identity) -> npt.NDArray[np.int32]:
    """Repeats that give each group its total: every row the same, and one more to those first by ``key``."""
    sizes = np.bincount(group, minlength=len(totals))
    order = np.lexsort((key, group))
    rank = np.empty(len(group), dtype=np.int64)
    rank[order] = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    each, more = np.divmod(totals, np.maximum(sizes, 1))
    return (each[group] + (rank < more[group])).astype(np.int32)


def _repeat_sets(row: Ints, label: Ints, wanted: Floats, key: Identity, are_shares: bool) -> npt.NDArray[np.int32]:
    """Repeats of rows by the set of named labels that each holds, given as pairs sorted by row."""
    rows, labels = len(key), len(wanted)
    # A set's hash is the sum of its labels', modulo 2**64; sums over rows are differences of a running one.
    ends = np.cumsum(np.bincount(row, minlength=rows))
    sums = np.concatenate([[np.uint64(0)], np.cumsum(mixed(np.arange(labels, dtype=np.uint64), 0)[label])])
    hashes = np.diff(sums[np.concatenate([[0], ends])])
    _, first, group, sizes = np.unique(hashes, return_index=True, return_inverse=True, return_counts=True)
    shown = np.zeros(rows, dtype=np.bool_)
    shown[first] = True
    holder, label = group[row[shown[row]]], label[shown[row]]
    total = float(rows) if are_shares else None
    weight = _weights(holder, label, sizes, wanted * (total or 1.0), total)
    # Sets with the same rarest label lie together, so that the rounding of one is made up for by the next.
    counts = np.bincount(label, weights=sizes[holder], minlength=labels)
    rank = np.argsort(np.argsort(counts, kind="stable"), kind="stable")
    rarest = np.full(len(sizes), labels)
    np.minimum.at(rarest, holder, rank[label])
    order = np.argsort(rarest, kind="stable")
    exact = (weight * sizes)[order]
    whole = np.floor(exact)
    whole += np.diff(np.floor(np.cumsum(exact - whole) + 0.5), prepend=0.0)
    totals = np.empty(len(sizes), dtype=np.int64)
    totals[order] = whole.astype(np.int64)
    return _repeat_evenly(group, totals, key)


def _weights(holder: Ints, label: Ints, sizes: Ints, wanted: Floats, total: float | None) -> Floats:
    """The weight of a row in each label set, by generalised iterative scaling; they sum to ``total`` where given."""
    sets, labels = len(sizes), len(wanted)
    # A label's step is one over the most labels in a set that holds it: the factors of a set then never overshoot.
    most = np.ones(labels)
    np.maximum.at(most, label, np.bincount(holder, minlength=sets)[holder])
    factor = np.zeros(labels)  # logarithms
    for _ in range(_ROUNDS):
        weight = np.exp(np.clip(np.bincount(holder, weights=factor[label], minlength=sets), -50, 50))
        weight = np.minimum(weight, MOST_REPEATS) if total is None else _scaled(weight, sizes, total)
        count = np.bincount(label, weights=(weight * sizes)[holder], minlength=labels)
        if (np.abs(count - wanted) <= np.maximum(0.25, 1e-4 * wanted)).all():
            break
        factor += np.log(wanted / np.maximum(count, 1e-9)) / most
        factor = np.clip(factor, -50, 50)  # targets that contradict each other would drive them to infinity
    return weight


def _scaled(weight: Floats, sizes: Ints, total: float) -> Floats:
    """Weights brought to the total, those that pass the cap held at it."""
    free = np.ones(len(weight), dtype=np.bool_)
    while True:
        rest = total - MOST_REPEATS * sizes[~free].sum()
        scaled = np.where(free, weight * (rest / max((weight * sizes)[free].sum(), 1e-300)), MOST_REPEATS)
        over = free & (scaled > MOST_REPEATS)
        if not over.any():
            return scaled
        free &= ~over
