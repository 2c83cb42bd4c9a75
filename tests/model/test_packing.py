from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rayclf.model.packing import pad_batch, plan_batches


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_plan_has_each_row_once_within_the_budget(lengths: list[int], max_tokens: int) -> None:
    plan = plan_batches(lengths, max_tokens)
    assert sorted(int(row) for batch in plan for row in batch) == list(range(len(lengths)))
    for batch in plan:
        longest = max(lengths[row] for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= max_tokens


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 200))
def test_plan_puts_like_lengths_together_longest_first(lengths: list[int], max_tokens: int) -> None:
    planned = [lengths[row] for batch in plan_batches(lengths, max_tokens) for row in batch]
    assert planned == sorted(lengths, reverse=True)


def test_no_rows_are_no_batches() -> None:
    assert plan_batches([], 10) == []


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5))
def test_pad_batch_pads_on_the_right_and_reads_an_empty_row_as_one_pad_token(rows: list[list[int]]) -> None:
    ids, mask = pad_batch([np.asarray(row, dtype=np.int32) for row in rows], 7)
    longest = max(1, *map(len, rows))
    for row, got, kept in zip(rows, ids.tolist(), mask.tolist(), strict=True):
        tokens = row or [7]
        assert got == tokens + [7] * (longest - len(tokens))
        assert kept == [1] * len(tokens) + [0] * (longest - len(tokens))
