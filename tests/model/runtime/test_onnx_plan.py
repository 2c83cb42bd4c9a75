"""Batches on a CPU: every row once, within the budget, and never dearer than one length each."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayclf.model.runtime.onnx_plan import plan_batches


def cost(batches: list[list[int]], lengths: list[int], each: int) -> int:
    return sum(each + len(batch) * max(max(1, lengths[i]) for i in batch) for batch in batches)


def by_length(lengths: list[int], budget: int) -> list[list[int]]:
    """Batches of one length each, as many rows as fit."""
    found = []
    for length in set(lengths):
        rows = [i for i, other in enumerate(lengths) if other == length]
        step = max(1, budget // max(1, length))
        found += [rows[start : start + step] for start in range(0, len(rows), step)]
    return found


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 200), st.sampled_from([0, 1, 16]))
def test_every_row_once_within_the_budget_and_never_dearer_than_one_length_each(
    lengths: list[int], budget: int, each: int
) -> None:
    batches = [batch.tolist() for batch in plan_batches(lengths, budget, each)]
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    assert cost(batches, lengths, each) <= cost(by_length(lengths, budget), lengths, each)
    if not each:
        assert all(len({max(1, lengths[i]) for i in batch}) == 1 for batch in batches)
    longest = [max(1, *(lengths[i] for i in batch)) for batch in batches]
    assert longest == sorted(longest, reverse=True)


def test_full_batches_are_of_one_length() -> None:
    lengths = [8] * 64 + [7] * 64
    assert [{lengths[i] for i in batch} for batch in plan_batches(lengths, 64, 16)] == [{8}] * 8 + [{7}] * 7 + [{7}]


def test_few_rows_of_like_lengths_share_a_batch_and_others_do_not() -> None:
    found = [sorted(batch.tolist()) for batch in plan_batches([50, 12, 49, 13, 51, 12], 512, 16)]
    assert found == [[0, 2, 4], [1, 3, 5]]


def test_a_window_of_many_rows_is_planned_in_a_moment() -> None:
    """At most one batch less than its budget for each length is left to be shared out."""
    lengths = np.random.default_rng(0).integers(3, 512, 65_536)
    batches = plan_batches(lengths, 512, 16)
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    assert padded / lengths.sum() < 1.01
