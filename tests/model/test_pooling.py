from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rayclf.model.pooling import Pooling, pad_right, pool, pool_rows

masks = st.lists(
    st.lists(st.booleans(), min_size=5, max_size=5).filter(any),
    min_size=1,
    max_size=6,
)


@given(masks)
def test_pad_right_keeps_the_tokens_in_order_and_moves_the_rest_behind(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows, dtype=torch.int64)
    ids = torch.arange(1, mask.numel() + 1).view(mask.shape)
    new_ids, new_mask = pad_right(ids, mask)
    for row, (old, kept) in enumerate(zip(ids, mask, strict=True)):
        tokens = old[kept.bool()].tolist()
        assert new_ids[row, : len(tokens)].tolist() == tokens
        assert new_mask[row].tolist() == [1] * len(tokens) + [0] * (5 - len(tokens))


@given(masks, st.sampled_from(["cls", "mean", "last"]))
def test_pool_sees_the_tokens_alone(rows: list[list[bool]], pooling: Pooling) -> None:
    _, mask = pad_right(torch.zeros(len(rows), 5), torch.tensor(rows, dtype=torch.int64))
    generator = torch.Generator().manual_seed(len(rows))
    hidden = torch.randn(len(rows), 5, 3, generator=generator)
    pooled = pool(hidden, mask, pooling)
    for row, states in enumerate(hidden):
        own = states[: int(mask[row].sum())]
        expected = {"cls": own[0], "mean": own.mean(dim=0), "last": own[-1]}[pooling]
        np.testing.assert_allclose(pooled[row], expected, atol=1e-6)
    noisy = hidden + 100 * (1 - mask).unsqueeze(-1)
    torch.testing.assert_close(pool(noisy, mask, pooling), pooled)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_pool_gives_float32(pooling: Pooling) -> None:
    hidden = torch.randn(2, 3, 4).bfloat16()
    assert pool(hidden, torch.ones(2, 3, dtype=torch.int64), pooling).dtype == torch.float32
    assert pool_rows(hidden[0], torch.tensor([0, 1, 3]), pooling).dtype == torch.float32


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.sampled_from(["cls", "mean", "last"]))
def test_packed_rows_are_pooled_as_padded_ones(lengths: list[int], pooling: Pooling) -> None:
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    hidden = torch.randn(len(lengths), 5, 3, generator=torch.Generator().manual_seed(len(lengths)), requires_grad=True)
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    padded, packed = pool(hidden, mask.long(), pooling), pool_rows(hidden[mask], ends, pooling)
    torch.testing.assert_close(packed, padded)
    ours, theirs = (torch.autograd.grad(out.square().sum(), hidden) for out in (packed, padded))
    torch.testing.assert_close(ours, theirs)
