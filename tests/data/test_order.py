from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rayclf.data.order import EpochOrder


def steps_of(order: EpochOrder, rank: int, world: int, start: int = 0) -> dict[int, list[int]]:
    """The rows of each step that are a worker's."""
    found: dict[int, list[int]] = {}
    for share in order.shares(rank, world, start):
        assert all(share.window[0] <= row < share.window[1] for row in share.rows)
        for row, step in zip(share.rows.tolist(), share.steps.tolist(), strict=True):
            found.setdefault(step, []).append(row)
    assert list(found) == sorted(found)
    return found


orders = st.builds(
    EpochOrder,
    rows=st.integers(1, 200),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
    shuffle=st.booleans(),
    window=st.integers(1, 64),
)


@settings(deadline=None)
@given(order=orders, world=st.integers(1, 9), data=st.data())
def test_workers_share_the_batches_of_one(order: EpochOrder, world: int, data: st.DataObject) -> None:
    """Whoever they are and wherever they begin: the same rows a step, in the same order, each once."""
    start = data.draw(st.integers(0, order.steps - 1))
    whole = steps_of(order, 0, 1)
    assert sorted(row for rows in whole.values() for row in rows) == list(range(order.rows))
    assert [len(rows) for rows in whole.values()] == [
        min(order.batch_size, order.rows - step * order.batch_size) for step in range(order.steps)
    ]
    shares = [steps_of(order, rank, world, start) for rank in range(world)]
    for step, rows in whole.items():
        mine = [share.get(step, []) for share in shares]
        assert [row for part in mine for row in part] == (rows if step >= start else [])
        if step >= start:
            sizes = [len(part) for part in mine]
            assert max(sizes) - min(sizes) <= 1


def test_seed_and_epoch_change_the_order_and_nothing_else_does() -> None:
    order = EpochOrder(1000, 10, seed=1, epoch=0, window=100)
    rows = np.concatenate([share.rows for share in order.shares(0, 1)])
    again = np.concatenate([share.rows for share in EpochOrder(1000, 10, 1, 0, window=100).shares(0, 1)])
    assert (rows == again).all()
    for other in (EpochOrder(1000, 10, 2, 0, window=100), EpochOrder(1000, 10, 1, 1, window=100)):
        assert (rows != np.concatenate([share.rows for share in other.shares(0, 1)])).any()


def test_unshuffled_rows_keep_their_order() -> None:
    order = EpochOrder(70, 8, seed=1, epoch=2, shuffle=False, window=16)
    assert np.concatenate([share.rows for share in order.shares(0, 1)]).tolist() == list(range(70))


def test_rows_are_mixed_inside_windows_and_windows_are_mixed() -> None:
    order = EpochOrder(1000, 10, seed=1, epoch=0, window=100)
    shares = list(order.shares(0, 1))
    assert [share.window[0] for share in shares] != sorted(share.window[0] for share in shares)
    assert all(share.rows.tolist() != sorted(share.rows.tolist()) for share in shares)
