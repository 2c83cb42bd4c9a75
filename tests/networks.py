"""Tiny networks of every type that packs, and rows for them: what the tests of the network's shortcuts share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tiny import perturb, tiny_config
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from rayclf.model.network import Network
from rayclf.model.packing import make_inputs

LENGTHS = (9, 1, 20, 20, 3, 1, 1, 14)
WINDOW = {"num_key_value_heads": 2, "sliding_window": 6}
MIXED = WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}
ROBERTA = {"type_vocab_size": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "camembert": ROBERTA,
    "xlm-roberta": ROBERTA,
    "electra": {"embedding_size": 32},
    "gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma3_text": MIXED | {"head_dim": 8},
    "olmo2": {"num_key_value_heads": 2, "eos_token_id": 0},
    "phi3": WINDOW | {"eos_token_id": 0},
    "qwen2": MIXED | {"use_sliding_window": True},
    "smollm3": {"num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0},
    "starcoder2": WINDOW | {"bos_token_id": 0, "eos_token_id": 0},
}


def random_rows(lengths: Sequence[int], seed: int = 0, low: int = 0) -> list[Any]:
    """Rows of random tokens; ``low`` 0 lets pad tokens stand in them."""
    generator = np.random.default_rng(seed)
    return [generator.integers(low, 300, length).astype(np.int32) for length in lengths]


def logits(network: Network, rows: Sequence[Any], packed: bool) -> Tensor:
    out: Tensor = network(**make_inputs(rows, 1, packed).arguments())
    return out


def make_network(name: str, **fields: Any) -> Network:
    torch.manual_seed(1)
    config = tiny_config(name, num_labels=3, **({"pad_token_id": 1} | CONFIGS.get(name, {}) | fields))
    network = Network(AutoModelForSequenceClassification.from_config(config).eval())
    perturb(network)
    return network
