from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny import DECODERS, Made
from transformers import AutoModelForSequenceClassification

from rayclf.errors import BackboneError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.model.backbone import describe, load_network

Make = Callable[..., Made]
Backbone = Callable[[str], Path]
SPACE = LabelSpace(("biology", "law", "money"), ProblemType.MULTICLASS)


# --- padding ---------------------------------------------------------------------------------------------------------


def logits(network: torch.nn.Module, rows: list[list[int]], pad: int, side: str) -> torch.Tensor:
    longest = max(map(len, rows)) + 2
    ids, mask = torch.full((len(rows), longest), pad), torch.zeros(len(rows), longest, dtype=torch.int64)
    for i, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, place] = torch.tensor(row)
        mask[i, place] = 1
    with torch.no_grad():
        return network(ids, mask)


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_no_logit(make: Make, architecture: str, texts: list[str], side: str) -> None:
    """On either side, with any pad token: one that the texts hold, begin or end with among them."""
    made = make(architecture)
    special = made.tokenizer.eos_token or made.tokenizer.pad_token
    rows = [row.tolist() for row in made.encoding([*texts, f"a {special} cell", f"a cell {special}", f"{special} a"])]
    pad, end = made.tokenizer.pad_token_id, made.tokenizer.convert_tokens_to_ids(special)
    assert any(end in row for row in rows)
    rows += [rows[0] + [pad], [pad, *rows[1]]]
    with torch.no_grad():
        alone = torch.cat([made.network(torch.tensor([r]), torch.ones(1, len(r), dtype=torch.int64)) for r in rows])
    assert alone.std(dim=0).min() > 0.05, "the texts' logits must differ for this test to say anything"
    assert (alone[0] - alone[-2]).abs().max() > 1e-3 or architecture not in DECODERS, "the last token counts"
    for token in {pad, end, 5, 200}:
        torch.testing.assert_close(logits(made.network, rows, token, side), alone, atol=1e-5, rtol=0)


# --- load_network ----------------------------------------------------------------------------------------------------


def test_weights_are_those_of_the_files(backbone: Backbone, architecture: str) -> None:
    saved = safetensors.torch.load_file(backbone(architecture) / "model.safetensors")
    network = load_network(backbone(architecture), SPACE)
    state = network.backbone.state_dict()
    state |= {f"pooler.dense.{k}": v for k, v in network.head.dense.state_dict().items()}
    for name, tensor in saved.items():
        if architecture == "roberta" and name.startswith("pooler."):
            continue  # in the files, but its classifier has a dense layer of its own
        assert torch.equal(state[name], tensor), name


def test_fresh_head_is_seeded(backbone: Backbone, architecture: str) -> None:
    one, same, other = (load_network(backbone(architecture), SPACE, seed=seed).head.out.weight for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.shape[0] == len(SPACE)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_head_in_the_files_is_kept_when_it_fits(make: Make, backbone: Backbone, tmp_path: Path, name: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(backbone(name), num_labels=len(SPACE))
    model.save_pretrained(tmp_path)
    expected = (model.score if name == "llama" else model.classifier).weight
    assert torch.equal(load_network(tmp_path, SPACE).head.out.weight, expected)
    binary = LabelSpace(("x",), ProblemType.BINARY)
    assert load_network(tmp_path, binary).head.out.weight.shape == (1, 32)


def test_config_tells_the_label_space(backbone: Backbone, architecture: str) -> None:
    config = load_network(backbone(architecture), SPACE).config
    assert config.id2label == dict(enumerate(SPACE.names))
    assert config.label2id == SPACE.index
    assert config.problem_type == "single_label_classification"


@pytest.mark.parametrize("name", ["llama", "bert", "gpt_neo", "distilbert", "modernbert"])
def test_dropout_is_set_everywhere(backbone: Backbone, name: str) -> None:
    network = load_network(backbone(name), SPACE, dropout=0.25)
    rates = {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)}
    rates |= {network.config.attention_dropout} if name == "llama" else set()
    assert rates == {0.25}


def test_backbone_in_lower_precision_keeps_a_float32_head(backbone: Backbone, architecture: str) -> None:
    network = load_network(backbone(architecture), SPACE, dtype=torch.bfloat16).eval()
    assert {p.dtype for p in network.head.parameters()} == {torch.float32}
    assert {p.dtype for p in network.backbone.parameters()} == {torch.bfloat16}
    ids = torch.tensor([[5, 6, 7]])
    assert network(ids, torch.ones_like(ids)).dtype == torch.float32


def edited(source: Path, folder: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    shutil.copytree(source, folder)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    edit(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_lacking_weights_are_never_made_up(backbone: Backbone, architecture: str, tmp_path: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[max(name for name in tensors if "layer" in name or name.startswith("h."))]

    with pytest.raises(BackboneError, match="its files lack 1 weights of the backbone, such as "):
        load_network(edited(backbone(architecture), tmp_path / "b", drop), SPACE)


def test_weights_of_another_shape_are_never_made_up(backbone: Backbone, tmp_path: Path) -> None:
    def reshape(tensors: dict[str, torch.Tensor]) -> None:
        tensors["embed_tokens.weight"] = torch.zeros(7, 32)

    with pytest.raises(BackboneError, match=r"lack 1 weights of the backbone, such as model\.embed_tokens\.weight"):
        load_network(edited(backbone("llama"), tmp_path / "b", reshape), SPACE)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "missing"])
def test_damaged_weights_are_refused(write_tiny: Callable[..., Path], damage: str) -> None:
    folder = write_tiny("llama")
    file = folder / "model.safetensors"
    content = {"truncated": file.read_bytes()[:-200], "garbage": b"garbage" * 99, "missing": b""}[damage]
    file.unlink()
    if content:
        file.write_bytes(content)
    with pytest.raises(BackboneError, match="cannot be loaded") as caught:
        load_network(folder, SPACE)
    assert str(folder) in str(caught.value)


# --- describe --------------------------------------------------------------------------------------------------------


def test_describe_tells_the_size_without_reading_weights(backbone: Backbone, architecture: str, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    shutil.copy(backbone(architecture) / "config.json", folder)
    facts = describe(folder)
    network = load_network(backbone(architecture), SPACE)
    assert facts.layout == network.layout
    pooler = sum(p.numel() for p in network.head.dense.parameters()) if architecture == "bert" else 0
    assert facts.parameters == sum(p.numel() for p in network.backbone.parameters()) + pooler


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        "{}",
        '{"model_type": "no-such"}',
        '{"model_type": "vit"}',
        '{"model_type": "t5"}',
        '{"model_type": "llama", "vocab_size": "x"}',
        '{"model_type": "llama", "hidden_size": 30, "num_attention_heads": 4}',
    ],
)
def test_config_of_another_kind_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    for look in (describe, lambda folder: load_network(folder, SPACE)):
        with pytest.raises(BackboneError, match=f"^--backbone {re.escape(str(tmp_path))}: |type 't5'"):
            look(tmp_path)
