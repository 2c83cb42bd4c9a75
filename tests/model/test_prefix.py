"""A prefix computed once against rows computed whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import make_network, random_rows
from test_varlen import reference_kernel

from rayclf.config import LoraConfig
from rayclf.model import varlen
from rayclf.model.adapters import add_lora
from rayclf.model.network import Network
from rayclf.model.packing import make_inputs
from rayclf.model.prefix import SHORTEST, shared_length
from rayclf.model.varlen import PACKING_TYPES

DECODERS = sorted(name for name in PACKING_TYPES if make_network(name).is_decoder)
PROMPT = random_rows([11], seed=5)[0]
RESTS = random_rows((9, 1, 20, 20, 3, 1), seed=6)


def compare(network: Network, packed: bool, atol: float = 1e-5) -> None:
    """Logits of rows behind PROMPT, computed once and computed in each."""
    network.eval()
    whole = [np.concatenate([PROMPT, rest]) for rest in RESTS]
    with torch.no_grad():
        expected = network(**make_inputs(whole, 1, False).arguments())
        prefix = network.read_prefix(torch.from_numpy(PROMPT.astype(np.int64)))
        got = network(**make_inputs(RESTS, 1, packed).arguments(), prefix=prefix)
        without = network(**make_inputs(RESTS, 1, packed).arguments())
    torch.testing.assert_close(got, expected, atol=atol, rtol=0)
    assert (without - expected).abs().max() > 0.01, "the prefix must matter for this test to say anything"


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_prefix_computed_once_gives_the_logits_of_whole_rows(name: str, packed: bool) -> None:
    compare(make_network(name), packed)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_with_adapters(packed: bool) -> None:
    network = make_network("llama")
    add_lora(network, LoraConfig(r=4, alpha=16))
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    compare(network, packed)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_in_bfloat16(packed: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        compare(make_network("llama"), packed, atol=0.1)
    network = make_network("mistral")
    network.backbone.bfloat16()
    compare(network, packed, atol=0.1)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_the_kernel_reads_the_prefix_before_each_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_kernel)
    monkeypatch.setattr(varlen, "_has_kernel", lambda query, value: True)
    compare(make_network(name), True)


def test_what_cannot_share_says_so() -> None:
    for network in (
        make_network("bert"),
        make_network("gpt_neo"),
        make_network("gemma3_text", use_bidirectional_attention=True),
    ):
        assert not network.shares_prefix
        with torch.no_grad(), pytest.raises(ValueError, match="cannot share a prefix"):
            network.read_prefix(torch.arange(9))
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not make_network("llama", rope_parameters=rope).shares_prefix
    assert make_network("gemma3_text").shares_prefix


def test_a_prefix_is_for_inference_alone() -> None:
    network = make_network("llama")
    with torch.no_grad():
        prefix = network.read_prefix(torch.arange(9))
    with pytest.raises(ValueError, match="inference"):
        network(**make_inputs(RESTS, 1, False).arguments(), prefix=prefix)


def by_the_book(rows: list[Any]) -> int:
    shared = 0
    while all(len(row) > shared + 1 and row[shared] == rows[0][shared] for row in rows):
        shared += 1
    return shared if shared >= SHORTEST and len(rows) > 1 else 0


@settings(max_examples=200, deadline=None)
@given(
    common=st.lists(st.integers(0, 70_000), max_size=20),
    rests=st.lists(st.lists(st.integers(0, 2) | st.integers(0, 70_000), max_size=12), min_size=1, max_size=6),
)
def test_the_shared_length_is_that_of_a_search_token_by_token(common: list[int], rests: list[list[int]]) -> None:
    rows = [np.asarray(common + rest, dtype=np.int32) for rest in rests]
    assert shared_length(rows) == by_the_book(rows)
