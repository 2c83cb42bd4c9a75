from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import DECODERS, ENCODERS, tiny_config
from transformers import AutoModelForSequenceClassification

from rayclf.errors import BackboneError
from rayclf.model.export import to_transformers
from rayclf.model.network import Network

# Beside the types that have a tiny backbone, all others in the table of heads, and some more decoders.
OTHERS: dict[str, dict[str, Any]] = {
    "xlm-roberta": {"type_vocab_size": 1, "pad_token_id": 1},
    "camembert": {"type_vocab_size": 1, "pad_token_id": 1},
    "mpnet": {"pad_token_id": 1},
    "electra": {"embedding_size": 32, "pad_token_id": 0},
    "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pad_token_id": 0},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "pad_token_id": 0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96, "pad_token_id": 0},
    "gemma": {"num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0},
}


def make_model(name: str, **fields: Any) -> Any:
    torch.manual_seed(1)
    more = {} if name in ENCODERS else {"pad_token_id": 0}
    config = tiny_config(name, num_labels=3, **(more | OTHERS.get(name, {}) | fields))
    model = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases too, which start at zero
            parameter += 0.05 * torch.randn(parameter.shape)
    return model


def run(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return out if isinstance(out, torch.Tensor) else out.logits


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS, *OTHERS])
def test_parting_and_putting_together_keep_transformers_logits(name: str) -> None:
    model = make_model(name)
    ids = torch.randint(5, 300, (3, 9))
    expected = run(model, ids)
    assert expected.std(dim=0).min() > 1e-3
    network = Network(model)
    torch.testing.assert_close(run(network, ids), expected, atol=1e-5, rtol=0)
    again = to_transformers(network)
    assert type(again) is type(model)
    torch.testing.assert_close(run(again, ids), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_modernbert_pools_as_its_config_says(pooling: str) -> None:
    model = make_model("modernbert", classifier_pooling=pooling, classifier_activation="silu")
    ids = torch.randint(5, 300, (2, 9))
    expected = run(model, ids)
    network = Network(model)
    assert network.layout.pooling == pooling
    torch.testing.assert_close(run(network, ids), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS, *OTHERS])
def test_head_and_backbone_share_no_weight_and_lose_none(name: str) -> None:
    model = make_model(name)
    whole = {id(p) for p in model.parameters()}
    network = Network(model)
    head = {id(p) for p in network.head.parameters()}
    backbone = {id(p) for p in network.backbone.parameters()}
    assert head
    assert not head & backbone
    assert head | backbone == whole


@pytest.mark.parametrize("name", ["llama", "bert", "modernbert"])
def test_head_is_float32_under_a_bfloat16_backbone_and_autocast(name: str) -> None:
    network = Network(make_model(name).to(torch.bfloat16))
    assert {p.dtype for p in network.head.parameters()} == {torch.float32}
    assert {p.dtype for p in network.backbone.parameters()} == {torch.bfloat16}
    ids = torch.randint(5, 300, (2, 9))
    with torch.autocast("cpu", torch.bfloat16):
        logits = run(network, ids)
        width = network.config.hidden_size
        pooled = torch.randn(4, width)
        inside = network.head(pooled)
    assert logits.dtype == torch.float32
    assert torch.equal(inside, network.head(pooled))


def test_unknown_encoder_is_refused() -> None:
    with pytest.raises(BackboneError, match="does not know the head of backbone type 'albert'; use") as caught:
        Network(make_model("albert", embedding_size=8, pad_token_id=0))
    assert "\n" not in str(caught.value)


def test_a_head_begins_with_a_prior_where_it_has_a_bias() -> None:
    ids = torch.randint(5, 300, (3, 9))
    for name, has_bias in (("bert", True), ("llama", False)):
        network = Network(make_model(name))
        before = run(network, ids)
        bias = network.head.out.bias
        old = bias.detach().clone() if has_bias else torch.zeros(3)
        prior = torch.tensor([-1.0, -2.0, -3.0]) if has_bias else torch.zeros(3)
        network.head.begin_with(torch.tensor([-1.0, -2.0, -3.0]))
        torch.testing.assert_close(run(network, ids), before - old + prior, atol=1e-5, rtol=0)
