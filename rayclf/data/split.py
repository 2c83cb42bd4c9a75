"""Which part each row belongs to, train or one held out: by a hash of the row itself, by label, or by time.

A row's identity (a hash of its text, or of its group) and the seed give it a place in [0, 1), of which each part has
an interval. So equal texts never stand in two parts, the order of the rows is of no matter, and rows added later move
none of the old ones. Everything works on an index without texts, a million rows in about a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rayclf.errors import DataError

Identity = npt.NDArray[np.uint64]
Parts = npt.NDArray[np.int8]
TRAIN = 0


def assign_parts(
    identity: Identity,
    positive: pa.ListArray,
    shares: Mapping[str, float],
    *,
    method: Literal["stratified", "random", "group"],
    seed: int,
    labels: int,
) -> Parts:
    """The part of each row, ``int8[n]``: 0 is train, 1 and up the parts in the order of ``shares``.

    ``identity`` (``uint64[n]``) is equal for rows that must stay together, ``positive`` lists the positions, below
    ``labels``, of the labels that hold; ``shares`` are of the distinct identities and sum to less than 1.

    ``random`` and ``group`` part by the hash of identity and seed alone. ``stratified`` begins so, and then mends the
    labels that chance has treated badly, the rarest first, as iterative stratification does (Sechidis, Tsoumakas &
    Vlahavas, "On the Stratification of Multi-Label Data", ECML PKDD 2011). Of a label that n distinct identities hold,
    each part is to have floor(0.5 * share * n) to ceil(1.5 * share * n), at least one where share * n >= 1, and train
    at least one. Identities nearest to the interval that needs them are moved, as few as will do, and none that a
    rarer label needs where it is; so labels that share rows may keep a count out of bounds where no such move is left.

    The trade: parts that never change and labels in exact proportion contradict each other. Identity decides here,
    and labels are mended only beyond these bounds. Rows added later can therefore move an old one, in ``stratified``,
    where a label comes in or out of bounds by them: seldom, and mostly for labels of a few rows.

    A part with a share that would stay empty gets one identity, of train or else of the largest part, and so does
    train; rows added later give that one back. Raises DataError when there are fewer identities than parts.
    """
    distinct, row_of = np.unique(identity, return_inverse=True)
    place = (mixed(distinct, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    edges = np.cumsum([0.0, *shares.values()])
    part = np.searchsorted(edges[1:], place, side="right") + 1
    part[part > len(shares)] = TRAIN
    made = _Assignment(part.astype(np.int8), place, edges)
    if method == "stratified" and shares:
        strata = _Strata(made, row_of, positive, np.array([0.0, *shares.values()]), labels)
        strata.mend()
        needed = strata.last_in_train()
    else:
        needed = np.zeros(len(distinct), dtype=np.bool_)
    made.fill(TRAIN, needed)
    for number, (name, share) in enumerate(shares.items(), start=1):
        if share and not made.fill(number, needed):
            raise too_few(len(identity), name)
        if method == "stratified":
            needed = strata.last_in_train()
    return made.part[row_of]


def assign_by_time(times: npt.NDArray[Any], shares: Mapping[str, float]) -> Parts:
    """The part of each row by its time, ``int8[n]`` as :func:`assign_parts`, of numbers ``times[n]``.

    The newest rows go to the first part of ``shares``, the next to the second, the oldest to train. Rows of one time
    stay together, so a part is cut where the times come nearest to its share; each gets at least one time. Raises
    DataError for NaN and when there are fewer different times than parts.
    """
    if np.isnan(times).any():
        raise DataError(f"data.split_column: {int(np.isnan(times).sum())} row(s) have no time; give each row one")
    moments, inverse, sizes = np.unique(times, return_inverse=True, return_counts=True)
    part_of = np.zeros(len(moments), dtype=np.int8)
    newest_first = np.cumsum(sizes[::-1])
    held = {name: share for name, share in shares.items() if share}
    start, goal = 0, 0.0
    for number, (name, share) in enumerate(shares.items(), start=1):
        if not share:
            continue
        goal += share * len(times)
        after = list(held).index(name) - len(held) + 1  # minus the parts that still need a time, besides train
        stop = len(moments) - 1 + after
        if stop <= start:
            raise DataError(
                f"too few different times ({len(moments)}) to hold out a {name} part by time; "
                f"set data.{name} to 0 or choose another data.split"
            )
        cut = start + 1 + int(np.abs(newest_first[start:stop] - goal).argmin())
        part_of[len(moments) - cut : len(moments) - start] = number
        start = cut
    return part_of[inverse]


def mixed(identity: Identity, seed: int, purpose: int = 0) -> Identity:
    """Hashes of each identity and the seed, ``uint64[n]``: one to one, and unlike for another seed or purpose.

    The finaliser of SplitMix64 (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
    ``purpose`` keeps draws apart: rows removed by the order that also parted them would not be removed by chance.
    """
    key = np.array([(seed + 0x9E3779B97F4A7C15 * (purpose + 1)) % 2**64], dtype=np.uint64)
    return _finalise(identity.astype(np.uint64) ^ _finalise(key))


def _finalise(x: Identity) -> Identity:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def too_few(rows: int, part: str) -> DataError:
    """The error for a part that no row can be given to."""
    return DataError(f"too few rows ({rows}) to hold out a {part} part; set data.{part} to 0 or give more rows")


class _Assignment:
    """The part and the place of each distinct identity, and the interval of each part."""

    def __init__(self, part: Parts, place: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> None:
        self.part = part
        self.place = place
        self.starts = np.array([edges[-1], *edges[:-1]])  # train has what the parts leave, up to 1
        self.stops = np.array([1.0, *edges[1:]])

    def nearest(self, members: npt.NDArray[np.intp], to: int) -> npt.NDArray[np.intp]:
        """``members`` in the order of their distance to the interval of the part ``to``, where 1 and 0 meet."""
        place, start, stop = self.place[members], self.starts[to], self.stops[to]
        inside = (place >= start) & (place < stop)
        distance = np.where(inside, 0.0, np.minimum((start - place) % 1, (place - stop) % 1))
        return members[np.argsort(distance, kind="stable")]

    def fill(self, empty: int, needed: npt.NDArray[np.bool_]) -> bool:
        """Give a part that is empty one identity, if it can be one that is not ``needed``; False when none is left."""
        counts = np.bincount(self.part, minlength=len(self.starts))
        if counts[empty]:
            return True
        donor = TRAIN if counts[TRAIN] >= 2 else int(counts.argmax())
        if counts[donor] < (1 if empty == TRAIN else 2):
            return False
        members = np.flatnonzero(self.part == donor)
        spare = members[~needed[members]]
        self.part[self.nearest(spare if len(spare) else members, empty)[0]] = empty
        return True


class _Strata:
    """Which distinct identities hold which label, and how many each part has of each."""

    def __init__(
        self,
        made: _Assignment,
        row_of: npt.NDArray[np.intp],
        positive: pa.ListArray,
        shares: npt.NDArray[np.float64],
        labels: int,
    ) -> None:
        rows = np.repeat(row_of, np.diff(positive.offsets.to_numpy()))
        pairs = rows * labels + positive.flatten().to_numpy()
        pairs.sort()  # and not np.unique, whose hashing takes five times as long
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]
        self.made = made
        self.owner, self.label = (pairs // max(labels, 1)).astype(np.int32), (pairs % max(labels, 1)).astype(np.int32)
        self.by_owner = np.searchsorted(self.owner, np.arange(len(made.part) + 1))
        order = np.argsort(self.label, kind="stable")
        self.members = self.owner[order]
        total = np.bincount(self.label, minlength=labels)
        self.by_label = np.concatenate([[0], np.cumsum(total)])
        self.counts = self._count(labels, len(shares))
        goal = np.round(total[:, None] * shares, 9)  # 0.07 * 100 is 7, not a hair above
        self.low = np.maximum(np.floor(goal / 2), goal >= 1).astype(np.int64)
        self.high = np.ceil(goal * 1.5).astype(np.int64)
        self.low[:, TRAIN], self.high[:, TRAIN] = total > 0, total
        self.rarest_first = np.argsort(total, kind="stable")
        self.rank = np.empty(labels, dtype=np.int64)
        self.rank[self.rarest_first] = np.arange(labels)
        self.fixed = np.zeros(len(made.part), dtype=np.bool_)

    def _count(self, labels: int, parts: int) -> npt.NDArray[np.int64]:
        cells = self.label.astype(np.int64) * parts + self.made.part[self.owner]
        return np.bincount(cells, minlength=labels * parts).reshape(labels, parts)

    def last_in_train(self) -> npt.NDArray[np.bool_]:
        """Which identities are in train the only one with some label."""
        self.counts = self._count(*self.counts.shape)
        last = np.zeros(len(self.made.part), dtype=np.bool_)
        last[self.owner[self.counts[self.label, TRAIN] == 1]] = True
        return last & (self.made.part == TRAIN)

    def mend(self) -> None:
        """Bring each label within its bounds, the rarest first."""
        for label in self.rarest_first:
            have, low, high = self.counts[label], self.low[label], self.high[label]  # views: moves show in them
            for part in np.flatnonzero(have > high).tolist():
                self._move(label, part, TRAIN, have[part] - high[part])
            for part in np.flatnonzero(have < low).tolist():
                # Mostly from train; where that has none to spare, from the part that has most.
                spare = (have - low).tolist()
                for source in sorted(range(len(spare)), key=lambda i: (i != TRAIN, -spare[i])):
                    self._move(label, source, part, min(low[part] - have[part], have[source] - low[source]))

    def _move(self, label: int, source: int, to: int, wanted: int) -> None:
        if wanted <= 0:
            return
        part, counts = self.made.part, self.counts
        members = self.members[self.by_label[label] : self.by_label[label + 1]]
        members = members[(part[members] == source) & ~self.fixed[members]]
        for one in self.made.nearest(members, to):
            held = self.label[self.by_owner[one] : self.by_owner[one + 1]]
            rarer = held[self.rank[held] < self.rank[label]]
            leaves = (counts[rarer, source] > self.low[rarer, source]).all()
            if not (leaves and (counts[rarer, to] < self.high[rarer, to]).all()):
                continue
            part[one], self.fixed[one] = to, True
            counts[held, source] -= 1
            counts[held, to] += 1
            wanted -= 1
            if wanted == 0:
                return
