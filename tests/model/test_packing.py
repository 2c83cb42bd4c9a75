from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayclf.model.packing import make_inputs, pad_batch, plan_batches


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


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_packed_plan_has_each_row_once_and_fills_the_budget(lengths: list[int], max_tokens: int) -> None:
    plan = plan_batches(lengths, max_tokens, packed=True)
    assert sorted(int(row) for batch in plan for row in batch) == list(range(len(lengths)))
    costs = [[max(1, lengths[row]) for row in batch] for batch in plan]
    for cost in costs:
        assert len(cost) == 1 or sum(cost) <= max_tokens
    for cost, following in itertools.pairwise(costs):
        assert sum(cost) + following[0] > max_tokens, "the next row would have fitted"
    flat = [size for cost in costs for size in cost]
    assert flat == sorted(flat, reverse=True)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(50, 200))
def test_packing_never_needs_more_batches(lengths: list[int], max_tokens: int) -> None:
    assert len(plan_batches(lengths, max_tokens, packed=True)) <= len(plan_batches(lengths, max_tokens))


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5))
def test_packed_inputs_are_the_rows_one_after_the_other(rows: list[list[int]]) -> None:
    arrays = [np.asarray(row, dtype=np.int32) for row in rows]
    packed, padded = make_inputs(arrays, 7, packed=True), make_inputs(arrays, 7, packed=False)
    filled = [row or [7] for row in rows]
    assert packed.input_ids.tolist() == [[token for row in filled for token in row]]
    assert packed.lengths is not None
    assert packed.lengths.tolist() == [len(row) for row in filled]
    assert packed.input_ids.dtype == packed.lengths.dtype == torch.int64
    assert set(packed.arguments()) == {"input_ids", "lengths"}
    assert set(padded.arguments()) == {"input_ids", "attention_mask"}
    assert packed.rows == padded.rows == len(rows)
    assert packed.tokens == padded.tokens == sum(map(len, filled))


def test_lengths_stay_on_the_cpu() -> None:
    rows = [np.asarray([1, 2], dtype=np.int32), np.asarray([3], dtype=np.int32)]
    packed, padded = (make_inputs(rows, 0, packed).to("meta") for packed in (True, False))
    assert packed.input_ids.device.type == padded.input_ids.device.type == "meta"
    assert packed.lengths is not None
    assert packed.lengths.device.type == "cpu"
    assert padded.attention_mask is not None
    assert padded.attention_mask.device.type == "meta"
