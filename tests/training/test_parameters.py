"""Parameters and activation widths, known without weights, are those of the real network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from tiny import SPACES, add_lora, load_network
from torch import Tensor, nn

from rayclf.config import Config, LoraConfig, ModelConfig, TrainConfig
from rayclf.errors import BackboneError, ConfigError
from rayclf.labels import ProblemType
from rayclf.training.cost.memory import Case, activation_bytes
from rayclf.training.cost.parameters import read_shape

ROWS, LENGTH = 3, 61


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT reads attributes that Transformers has deprecated
@pytest.mark.parametrize("dora", [False, True])
def test_counts_are_those_of_peft(architecture: str, dora: bool, backbone: Callable[[str], Path]) -> None:
    folder = backbone(architecture)
    network = load_network(folder, SPACES[ProblemType.MULTICLASS])
    whole = sum(p.numel() for p in network.backbone.parameters())
    head = sum(p.numel() for p in network.head.parameters())
    linear = sum(m.weight.numel() for m in network.backbone.modules() if isinstance(m, nn.Linear))
    settings = peft.LoraConfig(r=4, target_modules="all-linear", use_dora=dora, task_type="FEATURE_EXTRACTION")
    adapted = peft.get_peft_model(network.backbone, settings)
    shape = read_shape(folder, 3, LoraConfig(r=4, dora=dora))
    assert (shape.backbone, shape.head, shape.linear) == (whole, head, linear)
    assert shape.adapters == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert (shape.trained("full"), shape.trained("lora")) == (whole + head, shape.adapters + head)
    assert read_shape(folder, 3).backbone == whole


@pytest.mark.parametrize("bf16", [False, True])
def test_activations_are_those_that_autograd_saves(
    architecture: str, tuning: str, bf16: bool, write_tiny: Callable[..., Path]
) -> None:
    sizes = {"gpt_neo": {"hidden_size": 128}, "distilbert": {"dim": 128, "hidden_dim": 256}}
    folder = write_tiny(architecture, **sizes.get(architecture, {"hidden_size": 128, "intermediate_size": 256}))
    dtype = torch.bfloat16 if bf16 and tuning == "lora" else torch.float32
    network = load_network(folder, SPACES[ProblemType.MULTICLASS], dtype=dtype, dropout=0.0).train()
    lora = LoraConfig(r=4)
    if tuning == "lora":
        add_lora(network, lora)
    model = ModelConfig(method=tuning, max_length=LENGTH, lora=lora)  # type: ignore[arg-type]
    config = Config(model=model, train=TrainConfig(batch_size=ROWS, micro_batch_tokens=ROWS * LENGTH))
    shape = read_shape(folder, 3, lora if tuning == "lora" else None)
    network._short_last = False  # the estimate counts the last layer whole: one layer too many at most
    estimated = activation_bytes(Case(config, shape, 3, 1, "bf16" if bf16 else "fp32"))
    assert 0.8 < estimated / saved_bytes(network, bf16) < 1.3


def saved_bytes(network: nn.Module, bf16: bool) -> int:
    """Bytes that autograd keeps from a forward pass, without weights and their bf16 copies."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    shapes = {shape for p in network.parameters() for shape in (tuple(p.shape), tuple(p.shape[::-1]))}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) not in shapes and tensor.untyped_storage().data_ptr() not in weights:
            kept.append(tensor)
        return tensor

    ids = torch.randint(5, 300, (ROWS, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", enabled=bf16):
        network(ids, torch.ones_like(ids)).sum()
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}.values())


def test_a_config_without_weights_is_enough(write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((write_tiny("llama") / "config.json").read_text())
    assert read_shape(tmp_path, 3).layers == 2


def test_what_cannot_be_planned_is_told(tmp_path: Path, backbone: Callable[[str], Path]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
    with pytest.raises(BackboneError, match="not one that Transformers can put a classifier on"):
        read_shape(tmp_path, 3)
    with pytest.raises(ConfigError, match="model.lora.target_modules"):
        read_shape(backbone("bert"), 3, LoraConfig(target_modules=["nothing"]))
