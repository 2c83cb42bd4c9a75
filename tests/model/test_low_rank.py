from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny import Made
from torch import nn

from rayclf.errors import ArtifactError
from rayclf.model.adapters import save_lora
from rayclf.model.backbone import load_network
from rayclf.model.low_rank import LowRank, Mixer, Unshareable, read_layers

Make = Callable[..., Made]


def saved(make: Make, folder: Path) -> tuple[nn.Module, Path]:
    """A plain tiny Llama and an adapter for it."""
    made = make("llama", tuning="lora")
    save_lora(made.network, folder)
    return load_network(made.source, made.info.space).backbone, folder


def change_config(folder: Path, **fields: Any) -> None:
    place = folder / "adapter_config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | fields))


def change_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    place = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(place)
    edit(tensors)
    safetensors.torch.save_file(tensors, place)


def test_scaling_is_in_the_weights(make: Make, tmp_path: Path) -> None:
    backbone, folder = saved(make, tmp_path)
    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    layers = read_layers(backbone, folder, torch.float32)
    assert len(layers) == 14
    name = "layers.1.mlp.down_proj"
    a, b = (tensors[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    torch.testing.assert_close(layers[name].down @ layers[name].up, (b @ a).T * 16 / 4)
    assert layers[name].nbytes == 4 * (a.numel() + b.numel())


def test_each_row_is_changed_by_its_own_adapter_and_nothing_afterwards() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    mixer = Mixer(net)
    one = {"0": LowRank(torch.randn(4, 2), torch.randn(2, 3))}
    two = {"0": LowRank(torch.randn(4, 1), torch.randn(1, 3)), "1": LowRank(torch.randn(3, 1), torch.randn(1, 2))}
    x = torch.randn(3, 5, 4)

    def expected(layers: dict[str, LowRank], states: torch.Tensor) -> torch.Tensor:
        for path, linear in net.named_children():
            after = linear(states)
            if path in layers:
                after = after + states @ layers[path].down @ layers[path].up
            states = after
        return states

    with torch.no_grad():
        plain = torch.stack([expected({}, row) for row in x])
        with mixer.mixed([one, two, two]):
            padded = net(x)
        with mixer.mixed([one, two, two], lengths=[5, 5, 5]):
            packed = net(x.reshape(1, 15, 4))
            pooled = net(x[:, 0][None])
        torch.testing.assert_close(net(x), plain)
        wanted = torch.stack([expected(layers, row) for layers, row in zip((one, two, two), x, strict=True)])
    torch.testing.assert_close(padded, wanted)
    torch.testing.assert_close(packed, wanted.reshape(1, 15, 2))
    torch.testing.assert_close(pooled[0], wanted[:, 0])


def test_states_of_no_known_row_are_not_mixed() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    mixer = Mixer(net)
    layers = [{"0": LowRank(torch.zeros(4, 1), torch.zeros(1, 3))} for _ in range(2)]
    with torch.no_grad(), mixer.mixed(layers), pytest.raises(ValueError, match="7 states of 2 rows"):
        net(torch.zeros(7, 4))
    assert net(torch.zeros(7, 4)).shape == (7, 3)


@pytest.mark.parametrize(
    "fields", [{"alpha_pattern": {"q_proj": 3}}, {"bias": "all"}, {"peft_type": "IA3"}, {"lora_bias": True}]
)
def test_another_kind_of_adapter_cannot_share(make: Make, tmp_path: Path, fields: dict[str, Any]) -> None:
    backbone, folder = saved(make, tmp_path)
    change_config(folder, **fields)
    with pytest.raises(Unshareable, match=f"it sets {next(iter(fields))}"):
        read_layers(backbone, folder, torch.float32)


def test_an_adapter_on_embeddings_cannot_share(make: Make, tmp_path: Path) -> None:
    backbone, folder = saved(make, tmp_path)
    name = "base_model.model.embed_tokens.lora_embedding_A"
    change_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(2, 3)}))
    with pytest.raises(Unshareable, match=name):
        read_layers(backbone, folder, torch.float32)


def drop_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[min(tensors)]


def add_one(tensors: dict[str, torch.Tensor]) -> None:
    for part in "AB":
        tensors[f"base_model.model.layers.9.self_attn.q_proj.lora_{part}.weight"] = torch.zeros(4, 32)


def reshape_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)] = torch.zeros(4, 5)


@pytest.mark.parametrize("edit", [drop_one, add_one, reshape_one])
def test_an_adapter_that_does_not_fit_is_refused(make: Make, tmp_path: Path, edit: Any) -> None:
    backbone, folder = saved(make, tmp_path)
    change_tensors(folder, edit)
    with pytest.raises(ArtifactError, match="the adapter does not fit its backbone") as caught:
        read_layers(backbone, folder, torch.float32)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("damage", ["missing", "garbage", "[]"])
def test_a_damaged_adapter_is_refused(make: Make, tmp_path: Path, name: str, damage: str) -> None:
    backbone, folder = saved(make, tmp_path)
    (folder / name).unlink()
    if damage != "missing":
        (folder / name).write_text(damage)
    with pytest.raises(ArtifactError, match="does not fit"):
        read_layers(backbone, folder, torch.float32)
