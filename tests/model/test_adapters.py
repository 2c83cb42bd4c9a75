from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft.tuners.lora import Linear, LoraLayer
from tiny import Made, perturb

from rayclf.config import LoraConfig
from rayclf.errors import ArtifactError, ConfigError
from rayclf.model.adapters import add_lora, load_lora, save_lora, without_adapters
from rayclf.model.backbone import load_network
from rayclf.model.fused_lora import FusedLinear

Make = Callable[..., Made]
Backbone = Callable[[str], Path]


def fresh(made: Made) -> Any:
    return load_network(made.source, made.info.space, seed=3).eval()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    return ids, torch.ones_like(ids)


def test_only_adapters_and_head_are_trainable(make: Make, architecture: str) -> None:
    made = make(architecture, tuning="lora", moved=False)
    trainable = {name for name, p in made.network.named_parameters() if p.requires_grad}
    head = {f"head.{name}" for name, _ in made.network.head.named_parameters()}
    assert head < trainable
    assert all("lora_" in name for name in trainable - head)
    frozen = [p for name, p in made.network.named_parameters() if name.startswith("backbone.") and "lora_" not in name]
    assert frozen
    assert not any(p.requires_grad for p in frozen)


def test_inputs_pass_through_to_the_backbone(make: Make, architecture: str) -> None:
    """Fresh adapters change nothing, moved ones do, and gradients reach them: PEFT's wrapper hands on all it gets."""
    made = make(architecture, tuning="lora", moved=False)
    ids, mask = batch()
    mask[0, 5:] = 0
    plain = fresh(made)
    with torch.no_grad():
        torch.testing.assert_close(made.network(ids, mask), plain(ids, mask), atol=1e-6, rtol=0)
    perturb(made.network)
    made.network(ids, mask).square().sum().backward()
    grads = {name: p.grad for name, p in made.network.named_parameters() if p.requires_grad}
    assert all(g is not None and g.abs().max() > 0 for g in grads.values()), grads.keys()
    with torch.no_grad():
        assert (made.network(ids, mask) - plain(ids, mask)).abs().max() > 1e-3


def test_adapters_are_left_out_for_a_while(make: Make, architecture: str) -> None:
    made = make(architecture, tuning="lora")
    ids, mask = batch()
    plain = fresh(made)
    plain.head.load_state_dict(made.network.head.state_dict())
    with torch.no_grad():
        with without_adapters(made.network):
            torch.testing.assert_close(made.network.eval()(ids, mask), plain(ids, mask), atol=1e-6, rtol=0)
        assert (made.network(ids, mask) - plain(ids, mask)).abs().max() > 1e-3
    assert all(p.requires_grad for name, p in made.network.named_parameters() if "lora_" in name)


def test_a_network_without_adapters_needs_no_peft(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import is seconds of a full training that has no use for it."""
    made = make("bert", tuning="full")
    monkeypatch.setitem(sys.modules, "peft", None)
    with without_adapters(made.network):
        pass


@pytest.mark.parametrize("merge", [False, True])
def test_saved_adapters_come_back_beside_or_merged(make: Make, architecture: str, tmp_path: Path, merge: bool) -> None:
    made = make(architecture, tuning="lora")
    save_lora(made.network, tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    network = fresh(made)
    load_lora(network, tmp_path, merge=merge)
    network.head.load_state_dict(made.network.head.state_dict())
    network.eval()
    ids, mask = batch()
    with torch.no_grad():
        torch.testing.assert_close(network(ids, mask), made.network(ids, mask), atol=1e-5, rtol=0)
    names = [name for name, _ in network.backbone.named_parameters()]
    assert merge != any("lora_" in name for name in names)
    assert not any(p.requires_grad for name, p in network.backbone.named_parameters() if "lora_" in name)


def test_adapters_loaded_to_go_on_training_are_trainable(make: Make, tmp_path: Path) -> None:
    made = make("llama", tuning="lora")
    save_lora(made.network, tmp_path)
    network = fresh(made)
    load_lora(network, tmp_path, merge=False, trainable=True)
    names = {name: p.requires_grad for name, p in made.network.named_parameters()}
    assert {name: p.requires_grad for name, p in network.named_parameters()} == names


def test_adapters_stay_float32_on_a_bfloat16_backbone(make: Make, tmp_path: Path) -> None:
    made = make("llama", tuning="lora", dtype=torch.bfloat16)
    save_lora(made.network, tmp_path)
    network = load_network(made.source, made.info.space, dtype=torch.bfloat16)
    load_lora(network, tmp_path, merge=False)
    for one in (made.network, network):
        kinds = {"lora_" in name: p.dtype for name, p in one.backbone.named_parameters()}
        assert kinds == {True: torch.float32, False: torch.bfloat16}


def gradients(network: Any, autocast: bool) -> dict[str, torch.Tensor]:
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = network(*batch())
    logits.square().sum().backward()
    grads = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    return grads | {"logits": logits.detach()}


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
def test_inputs_of_adapters_are_cast_once_for_the_same_numbers(
    make: Make, architecture: str, tmp_path: Path, dora: bool, loaded: bool
) -> None:
    """Autocast alone makes them bfloat16; without it PEFT makes them float32, and for DoRA's norms always.

    With dropout, as layers without it are fused.
    """
    made = make(architecture, tuning="lora", dtype=torch.bfloat16, lora=LoraConfig(r=4, dora=dora, dropout=0.1))
    network = made.network
    if loaded:
        save_lora(network, tmp_path)
        network = load_network(made.source, made.info.space, dtype=torch.bfloat16, seed=3)
        load_lora(network, tmp_path, merge=False, trainable=True)
    network.eval()
    layers = [m for m in network.backbone.modules() if isinstance(m, LoraLayer)]
    taken: set[torch.dtype] = set()
    for layer in layers:
        layer.lora_A["default"].register_forward_pre_hook(lambda _, inputs: taken.add(inputs[0].dtype))
    now = gradients(network, autocast=True)
    assert taken == {torch.float32 if dora else torch.bfloat16}
    taken.clear()
    assert len(gradients(network, autocast=False)) == len(now) > len(layers)
    assert taken == {torch.float32}
    for layer in layers:
        layer.__class__ = Linear if isinstance(layer, FusedLinear) else type(layer)
        layer.register_forward_pre_hook(lambda layer, _: setattr(layer, "cast_input_dtype_enabled", True))  # PEFT's way
    taken.clear()
    as_peft = gradients(network, autocast=True)
    assert taken == {torch.float32}
    for name, grad in now.items():
        torch.testing.assert_close(grad, as_peft[name], atol=0, rtol=0, msg=name)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    edit(tensors)
    safetensors.torch.save_file(tensors, file)


def drop_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[min(tensors)]


def add_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["base_model.model.layers.9.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 32)


def reshape_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)] = torch.zeros(4, 5)


@pytest.mark.parametrize("edit", [drop_one, add_one, reshape_one])
def test_adapter_that_does_not_fit_is_refused(make: Make, tmp_path: Path, edit: Any) -> None:
    made = make("llama", tuning="lora")
    save_lora(made.network, tmp_path)
    change(tmp_path, edit)
    with pytest.raises(ArtifactError, match="the adapter does not fit its backbone") as caught:
        load_lora(fresh(made), tmp_path, merge=True)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_adapter_of_another_architecture_is_refused(make: Make, tmp_path: Path) -> None:
    save_lora(make("llama", tuning="lora").network, tmp_path)
    with pytest.raises(ArtifactError, match="does not fit"):
        load_lora(fresh(make("bert")), tmp_path, merge=True)


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("damage", ["missing", "garbage"])
def test_damaged_adapter_is_refused(make: Make, tmp_path: Path, name: str, damage: str) -> None:
    made = make("llama", tuning="lora")
    save_lora(made.network, tmp_path)
    file = tmp_path / name
    file.unlink()
    if damage == "garbage":
        file.write_text("garbage")
    with pytest.raises(ArtifactError, match="does not fit") as caught:
        load_lora(fresh(made), tmp_path, merge=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("target", ["nothing_like_this", ["q_projection"], "q_proj("])
def test_unknown_target_modules_are_named(backbone: Backbone, spaces: Any, target: Any) -> None:
    network = load_network(backbone("llama"), next(iter(spaces.values())))
    with pytest.raises(ConfigError, match=r"^model\.lora\.target_modules: ") as caught:
        add_lora(network, LoraConfig(target_modules=target))
    assert "\n" not in str(caught.value)


def test_chosen_target_modules_alone_are_adapted(make: Make) -> None:
    made = make("llama", tuning="lora", lora=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    adapted = {name.split(".lora_")[0].split(".")[-1] for name, _ in made.network.named_parameters() if "lora_" in name}
    assert adapted == {"q_proj", "v_proj"}


def test_dora_tunes_directions_and_sizes(make: Make) -> None:
    made = make("llama", tuning="lora", lora=LoraConfig(r=2, dora=True), moved=False)
    sizes = [name for name, p in made.network.named_parameters() if "lora_magnitude_vector" in name and p.requires_grad]
    assert len(sizes) == 14
    assert not any("magnitude" in name for name, _ in make("llama", tuning="lora").network.named_parameters())


def test_rslora_scales_by_the_root_of_the_rank(make: Make) -> None:
    for rslora, expected in ((False, 16 / 4), (True, 16 / 2)):
        network = make("llama", tuning="lora", lora=LoraConfig(r=4, alpha=16, rslora=rslora)).network
        scales = {m.scaling["default"] for m in network.modules() if hasattr(m, "scaling") and hasattr(m, "lora_A")}
        assert scales == {expected}


@pytest.mark.parametrize("option", ["dora", "rslora"])
@pytest.mark.parametrize("merge", [False, True])
def test_options_are_saved_with_the_adapter(
    make: Make, architecture: str, tmp_path: Path, option: str, merge: bool
) -> None:
    made = make(architecture, tuning="lora", lora=LoraConfig(r=4, alpha=16, **{option: True}))
    save_lora(made.network, tmp_path)
    network = fresh(made)
    load_lora(network, tmp_path, merge=merge)
    network.head.load_state_dict(made.network.head.state_dict())
    ids, mask = batch()
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(ids, mask), made.network(ids, mask), atol=1e-5, rtol=0)
