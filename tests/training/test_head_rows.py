"""How many rows the head is fitted to first, and which."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf.config import TrainConfig
from rayclf.data.order import EpochOrder
from rayclf.training.head_rows import first_rows, head_rows, steps_to_read


@pytest.mark.parametrize(("tuning", "rows"), [("full", 5_120), ("lora", 5_120), ("qlora", 5_120), ("head", 0)])
def test_none_where_the_head_is_all_that_is_trained(tuning: str, rows: int) -> None:
    assert head_rows(TrainConfig(), tuning) == rows
    assert head_rows(TrainConfig(head_rows=7), tuning) == 7


@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 200), st.integers(1, 5))
def test_the_rows_are_those_of_the_first_steps(rows: int, batch_size: int, most: int, world: int) -> None:
    order = EpochOrder(rows, batch_size, seed=5, epoch=0, window=64)
    steps = steps_to_read(order, most, labels=3)
    numbers = first_rows(order, steps)
    shares = [share for rank in range(world) for share in order.shares(rank, world)]
    wanted = {int(row) for share in shares for row in share.rows[share.steps < steps]}
    assert len(numbers) == len(wanted) == min(rows, steps * batch_size)
    assert set(numbers.tolist()) == wanted
    assert len(numbers) <= max(most, batch_size)


def test_fewer_rows_where_there_are_very_many_labels() -> None:
    assert steps_to_read(EpochOrder(10**6, 32, seed=5, epoch=0), 10_240, labels=2**14) == 128
