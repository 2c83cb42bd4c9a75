from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoConfig

from rayclf.model import varlen
from rayclf.model.rows import Rows
from rayclf.model.varlen import IMPLEMENTATION, attend

CPU = torch.device("cpu")
lengths_of_rows = st.lists(st.integers(1, 12), min_size=1, max_size=6)


class Layer(nn.Module):
    """What an attention module tells its function."""

    def __init__(self, causal: bool, groups: int = 1) -> None:
        super().__init__()
        self.is_causal = causal
        self.num_key_value_groups = groups


def states(lengths: Any, groups: int = 1, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    heads, width = 4, 8
    generator = torch.Generator().manual_seed(sum(lengths))
    total = sum(lengths)
    return tuple(  # type: ignore[return-value]
        torch.randn(1, n, total, width, generator=generator, dtype=dtype, requires_grad=True)
        for n in (heads, heads // groups, heads // groups)
    )


def by_the_book(
    query: Tensor, key: Tensor, value: Tensor, lengths: Any, causal: bool, window: int | None, scale: float | None
) -> Tensor:
    """Softmax over a dense block-diagonal mask."""
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    place = torch.arange(len(row))
    ahead = place[:, None] - place
    sees = (row[:, None] == row) & ((ahead >= 0) | torch.tensor(not causal))
    if window is not None:
        sees &= ahead.abs() < window
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scale is None else scale)
    weights = scores.masked_fill(~sees, -torch.inf).softmax(dim=-1)
    return (weights @ value).transpose(1, 2)


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths_of_rows,
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 3, 50]),
    groups=st.sampled_from([1, 2]),
    scale=st.sampled_from([None, 0.7]),
)
def test_attention_is_the_dense_one_under_a_block_diagonal_mask(
    lengths: list[int], causal: bool, window: int | None, groups: int, scale: float | None
) -> None:
    inputs = states(lengths, groups, torch.float64)  # where rounding is out of the way
    rows = Rows(tuple(lengths), CPU)
    got, _ = attend(Layer(causal, groups), *inputs, None, scaling=scale, sliding_window=window, rows=rows)
    expected = by_the_book(*inputs, lengths, causal, window, scale)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)
    ours, theirs = (torch.autograd.grad(out.square().sum(), inputs) for out in (got, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def reference_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
) -> Tensor:
    """What ``varlen_attn`` documents, as a loop over rows: windows reach (left, right) tokens, -1 is without end.

    Where a row has fewer queries than keys, they are its last tokens.
    """
    for tensor, states, most in ((cu_seq_q, query, max_q), (cu_seq_k, key, max_k)):
        assert tensor.dtype == torch.int32
        assert tensor[0] == 0
        assert tensor[-1] == len(states)
        assert most == tensor.diff().max()
    assert len(key) == len(value)
    assert enable_gqa == (query.shape[1] != key.shape[1])
    outputs = []
    ends_q, ends_k = cu_seq_q.tolist(), cu_seq_k.tolist()
    for asked, own in zip(pairwise(ends_q), pairwise(ends_k), strict=True):
        q, k, v = (t[slice(*of)].transpose(0, 1) for t, of in ((query, asked), (key, own), (value, own)))
        places = torch.arange(k.shape[1])
        ahead = places[k.shape[1] - q.shape[1] :, None] - places
        left, right = window_size
        sees = torch.ones_like(ahead, dtype=torch.bool)
        sees &= (ahead <= left) if left >= 0 else sees
        sees &= (-ahead <= right) if right >= 0 else sees
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=sees, scale=scale, enable_gqa=enable_gqa)
        outputs.append(out.transpose(0, 1))
    return torch.cat(outputs)


@settings(max_examples=60, deadline=None)
@given(
    lengths=lengths_of_rows,
    causal=st.booleans(),
    window=st.sampled_from([None, 1, 3, 50]),
    groups=st.sampled_from([1, 2]),
)
def test_the_kernel_is_asked_for_the_same_attention(
    lengths: list[int], causal: bool, window: int | None, groups: int
) -> None:
    inputs = states(lengths, groups)
    rows = Rows(tuple(lengths), CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.attention.varlen.varlen_attn", reference_kernel)
        patch.setattr(varlen, "_by_length", None)
        patch.setattr(varlen, "_has_kernel", lambda query, value: True)
        got, _ = attend(Layer(causal, groups), *inputs, None, scaling=0.3, sliding_window=window, rows=rows)
    torch.testing.assert_close(got, by_the_book(*inputs, lengths, causal, window, 0.3), atol=1e-5, rtol=1e-5)


def test_under_autocast_the_kernel_gets_one_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key, value = states([3, 2])
    seen: list[torch.dtype] = []

    def kernel(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.extend(tensor.dtype for tensor in (query, key, value))
        return query

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(varlen, "_has_kernel", lambda query, value: query.dtype == torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        attend(Layer(True), query, key, value.bfloat16(), None, rows=Rows((3, 2), CPU))
    assert seen == [torch.bfloat16] * 3


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("length", "gradients", "used"),
    [(12, True, torch.float32), (255, True, torch.float32), (256, True, torch.bfloat16), (12, False, torch.bfloat16)],
)
def test_on_a_cpu_short_rows_attend_in_float32_where_gradients_follow(
    monkeypatch: pytest.MonkeyPatch, packed: bool, length: int, gradients: bool, used: torch.dtype
) -> None:
    compute, seen = F.scaled_dot_product_attention, list[torch.dtype]()

    def watched(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.extend(tensor.dtype for tensor in (query, key, value))
        out: Tensor = compute(query, key, value, *args, **kwargs)
        seen.append(out.dtype)
        return out

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    inputs = [tensor.detach().bfloat16().requires_grad_(gradients) for tensor in states([length])]
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = attend(Layer(False), *inputs, None, rows=Rows((length,), CPU) if packed else None)
    assert seen == [used] * 4
    assert out.dtype == torch.bfloat16
    if gradients:
        out.sum().backward()  # type: ignore[no-untyped-call]
        assert all(tensor.grad is not None and tensor.grad.dtype == torch.bfloat16 for tensor in inputs)


def test_dropout_is_left_to_sdpa(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", None)
    monkeypatch.setattr(varlen, "_has_kernel", lambda query, value: True)
    inputs = states([30, 20])
    rows = Rows((30, 20), CPU)
    first, second = (attend(Layer(True), *inputs, None, dropout=0.5, rows=rows)[0] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["softcap", "position_bias"])
def test_what_packed_attention_has_not_is_never_left_out_silently(name: str) -> None:
    with pytest.raises(TypeError, match="soft caps"):
        attend(Layer(True), *states([2, 2]), None, rows=Rows((2, 2), CPU), **{name: 1.0})


def test_rows_of_equal_length_are_taken_together() -> None:
    rows = Rows((5, 5, 3, 1, 1, 1, 5), CPU)
    assert rows.runs == [(2, 5), (1, 3), (3, 1), (1, 5)]
    assert rows.cumulative.tolist() == [0, 5, 10, 13, 14, 15, 16, 21]
    assert rows.longest == 5


@given(lengths_of_rows)
def test_positions_begin_anew_at_each_row(lengths: list[int]) -> None:
    ids = torch.ones(1, sum(lengths), dtype=torch.int64)
    positions = Rows(tuple(lengths), CPU).positions(AutoConfig.for_model("bert", pad_token_id=1), ids)
    assert positions.tolist() == [[place for length in lengths for place in range(length)]]


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6), min_size=1, max_size=5))
def test_roberta_counts_positions_over_the_tokens_that_are_no_pad_token(rows: list[list[int]]) -> None:
    from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

    config = AutoConfig.for_model("roberta", pad_token_id=1)
    packed = torch.tensor([[token for row in rows for token in row]])
    positions = Rows(tuple(map(len, rows)), CPU).positions(config, packed)
    expected = [RobertaEmbeddings.create_position_ids_from_input_ids(torch.tensor([row]), 1) for row in rows]
    assert torch.equal(positions, torch.cat(expected, dim=1))


def test_nothing_of_it_is_written_with_a_config() -> None:
    config = AutoConfig.for_model("llama")
    config._attn_implementation = IMPLEMENTATION
    assert IMPLEMENTATION not in config.to_json_string()
