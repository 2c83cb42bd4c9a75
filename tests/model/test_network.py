"""Packed batches against padded ones, on whole networks: logits, gradients, and that no row sees another."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import LENGTHS, logits, make_network, random_rows
from tiny import SPACES, Made, perturb, tiny_config
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from rayclf.config import LoraConfig
from rayclf.labels import ProblemType
from rayclf.model.adapters import add_lora
from rayclf.model.backbone import load_network
from rayclf.model.checkpointing import enable_checkpointing
from rayclf.model.export import to_transformers
from rayclf.model.network import Network
from rayclf.model.varlen import IMPLEMENTATION, PACKING_TYPES

Make = Callable[..., Made]


def gradients(network: Network, rows: Sequence[Any], packed: bool) -> dict[str, Tensor]:
    network.zero_grad(set_to_none=True)
    out = logits(network, rows, packed)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.requires_grad and p.grad is not None}
    assert len(found) > 3
    return found


def assert_same_gradients(network: Network, rows: Sequence[Any]) -> None:
    padded, packed = gradients(network, rows, False), gradients(network, rows, True)
    assert padded.keys() == packed.keys()
    for name, expected in padded.items():
        torch.testing.assert_close(
            packed[name], expected, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.fixture(scope="module")
def packing() -> Callable[[str], Network]:
    """A factory: the network of a type, made once."""
    made: dict[str, Network] = {}
    return lambda name: made[name] if name in made else made.setdefault(name, make_network(name))


@pytest.mark.parametrize("name", sorted(PACKING_TYPES))
def test_each_type_that_packs_reads_packed_rows_as_padded_ones(packing: Any, name: str) -> None:
    network, rows = packing(name), random_rows(LENGTHS)
    assert network.packs
    with torch.no_grad():
        padded, packed = logits(network, rows, False), logits(network, rows, True)
        alone = torch.cat([logits(network, [row], True) for row in rows])
    assert padded.std(dim=0).min() > 0.05, "the rows' logits must differ for this test to say anything"
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)
    assert_same_gradients(network, rows)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_tuned_parameters_get_the_gradients_of_padded_batches(
    backbone: Any, architecture: str, tuning: str, checkpointing: bool
) -> None:
    network = load_network(backbone(architecture), SPACES[ProblemType.MULTICLASS], seed=3, dropout=0.0)
    if not network.packs:
        pytest.skip(f"{architecture} cannot pack")
    if tuning == "lora":
        add_lora(network, LoraConfig(r=4, alpha=16, dropout=0.0))
    perturb(network)
    if checkpointing:
        enable_checkpointing(network)
    assert_same_gradients(network.train(), random_rows(LENGTHS, seed=3))


@pytest.mark.parametrize("name", ["bert", "roberta", "modernbert", "qwen2", "mistral"])
def test_changing_a_row_changes_no_other_row(packing: Any, name: str) -> None:
    network, rows = packing(name), random_rows(LENGTHS)
    with torch.no_grad():
        before = logits(network, rows, True)
        for changed in range(len(rows)):
            others = [i for i in range(len(rows)) if i != changed]
            rows[changed] = (rows[changed] + 7) % 300
            after = logits(network, rows, True)
            assert (after[changed] - before[changed]).abs().max() > 1e-3
            torch.testing.assert_close(after[others], before[others], atol=1e-6, rtol=0)
            before = after


@pytest.mark.parametrize("name", ["bert", "modernbert", "mistral"])
def test_no_gradient_flows_to_a_neighbours_tokens(packing: Any, name: str) -> None:
    network, rows = packing(name), random_rows(LENGTHS)
    states = list[Tensor]()

    def keep(module: Any, inputs: Any, output: Tensor) -> Tensor:
        states.append(output.detach().requires_grad_())
        return states[-1]

    handle = network.backbone.get_input_embeddings().register_forward_hook(keep)  # type: ignore[operator]
    out = logits(network, rows, True)
    handle.remove()
    ends = np.cumsum([0, *LENGTHS])
    for row in range(len(rows)):
        (gradient,) = torch.autograd.grad(out[row].square().sum(), states[0], retain_graph=True)
        own = slice(ends[row], ends[row + 1])
        assert gradient[0, own].abs().max() > 0
        gradient[0, own] = 0
        assert not gradient.any()


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["roberta", "modernbert", "qwen2"]),
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=9),
    seed=st.integers(0, 99),
)
def test_any_lengths_in_any_order_give_the_logits_of_padded_batches(
    packing: Any, name: str, lengths: list[int], seed: int
) -> None:
    rows = random_rows(lengths, seed)
    with torch.no_grad():
        torch.testing.assert_close(
            logits(packing(name), rows, True), logits(packing(name), rows, False), atol=1e-5, rtol=0
        )


def test_dropout_of_attention_is_on_in_training(packing: Any) -> None:
    network = make_network("llama", attention_dropout=0.5).train()
    rows = random_rows(LENGTHS)
    assert not torch.equal(logits(network, rows, True), logits(network, rows, True))
    assert torch.equal(logits(network.eval(), rows, True), logits(network.eval(), rows, True))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_half_precision_and_autocast_pack(name: str) -> None:
    network, rows = make_network(name), random_rows(LENGTHS)
    with torch.no_grad():
        expected = logits(network, rows, False)
        with torch.autocast("cpu", torch.bfloat16):
            got = logits(network, rows, True)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, atol=0.2, rtol=0.05)
    assert (got - expected).abs().max() > 1e-4, "computed in bfloat16"


@pytest.mark.parametrize("name", ["llama", "modernbert", "gemma3_text"])
def test_no_mask_is_built(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, rows = make_network(name), random_rows(LENGTHS)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a mask of T x T")

    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, IMPLEMENTATION, fail)
    logits(network, rows, True)
    with pytest.raises(AssertionError, match="a mask"):
        logits(network, rows, False)


def test_attention_that_is_not_ours_fails_rather_than_mixes_rows() -> None:
    network = make_network("llama")
    network.backbone.set_attn_implementation("sdpa")  # type: ignore[operator]
    assert not network.packs
    with pytest.raises(ValueError, match="llama cannot pack"):
        logits(network, random_rows(LENGTHS), True)
    network.config = AutoConfig.for_model("llama", attn_implementation=IMPLEMENTATION)  # no more what layers look at
    assert network.packs
    with pytest.raises(RuntimeError, match="size"):
        logits(network, random_rows(LENGTHS), True)


def test_padded_batches_are_read_as_by_transformers_sdpa(architecture: str) -> None:
    network = make_network(architecture)
    network._short_last = False  # all of every layer is what Transformers reads
    rows = random_rows(LENGTHS, low=2)
    with torch.no_grad():
        ours = logits(network, rows, False)
        network.backbone.set_attn_implementation("sdpa" if network.packs else "eager")  # type: ignore[operator]
        assert torch.equal(logits(network, rows, False), ours)


def test_the_attention_is_in_no_file(make: Make, tmp_path: Path) -> None:
    made = make("bert")
    assert made.network.packs
    made.save(tmp_path / "artifact")
    to_transformers(made.network).save_pretrained(tmp_path / "exported")
    for config in tmp_path.rglob("*.json"):
        assert IMPLEMENTATION not in config.read_text(), config
        assert "attn_implementation" not in json.dumps(json.loads(config.read_text()))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported")
    assert again.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "fields",
    [{"layer_types": ["chunked_attention", "full_attention"]}, {"attn_implementation": "eager"}],
    ids=["layers", "attention"],
)
def test_what_the_tests_do_not_prove_is_not_packed(fields: dict[str, Any]) -> None:
    config = tiny_config("llama", pad_token_id=1)
    for name, value in fields.items():
        setattr(config, f"_{name}" if name.startswith("attn") else name, value)
    assert not Network(AutoModelForSequenceClassification.from_config(config)).packs


def test_own_attention_falls_back_to_padding(make: Make) -> None:
    network = make("gpt_neo").network
    assert not network.packs
    with pytest.raises(ValueError, match="gpt_neo cannot pack"):
        logits(network, random_rows(LENGTHS), True)


@pytest.mark.parametrize("lengths", [[5, 4], [10, 0], [-1, 11]])
def test_lengths_that_do_not_fit_are_refused(packing: Any, lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="add up"):
        packing("bert")(torch.ones(1, 10, dtype=torch.int64), lengths=torch.tensor(lengths))


def test_neither_mask_nor_lengths_is_refused(packing: Any) -> None:
    with pytest.raises(ValueError, match="attention_mask"):
        packing("bert")(torch.ones(1, 10, dtype=torch.int64))


def test_loading_again_packs(backbone: Any, make: Make) -> None:
    made = make("llama")
    assert load_network(backbone("llama"), made.info.space).packs
