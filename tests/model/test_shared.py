"""Classifiers that share a backbone say what each says alone, and the backbone is there, and computes, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TEXTS, Made, make_classifier, perturb

from rayclf.errors import ArtifactError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.model.artifact import load_head, pooled_by
from rayclf.model.engine import Classifier
from rayclf.model.info import read_info
from rayclf.model.network import Network
from rayclf.model.runtime.pytorch import TorchRuntime
from rayclf.model.shared import HeadRuntime, SharedBackbone, forward_together, hold_once, load_together

Make = Callable[..., Made]
KINDS = list(ProblemType)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each pass through a network's backbone, as they come."""
    seen: list[int] = []
    forward = Network.forward

    def counted(self: Network, input_ids: Any, *args: Any, **more: Any) -> Any:
        seen.append(len(input_ids))
        return forward(self, input_ids, *args, **more)

    monkeypatch.setattr(Network, "forward", counted)
    return seen


def heads(make: Make, name: str, folder: Path, **more: Any) -> list[Path]:
    """Artifacts on one untouched backbone, whose heads differ in weights and size."""
    return [
        make(name, tuning="head", kind=kind, seed=seed, **more).save(folder / str(kind) / "artifact")
        for seed, kind in enumerate(KINDS)
    ]


def alone(folders: list[Path], **options: Any) -> list[Any]:
    return [Classifier.load(folder, **options).logits(TEXTS) for folder in folders]


def test_heads_on_one_backbone_give_what_each_gives_alone(
    make: Make, architecture: str, tmp_path: Path, passes: list[int]
) -> None:
    folders = heads(make, architecture, tmp_path)
    expected = alone(folders)
    assert [logits.shape[1] for logits in expected] == [1, 3, 4]
    classifiers = load_together(folders)
    assert len({id(one.runtime.backbone) for one in classifiers if isinstance(one.runtime, HeadRuntime)}) == 1
    ids = classifiers[0].encode(TEXTS)
    passes.clear()
    for found, logits in zip(forward_together(classifiers, [ids] * 3), expected, strict=True):
        np.testing.assert_allclose(found, logits, atol=1e-5)
    assert sum(passes) == len(TEXTS)
    for classifier, logits in zip(classifiers, expected, strict=True):
        np.testing.assert_allclose(classifier.logits(TEXTS), logits, atol=1e-5)


@pytest.mark.parametrize("options", [{"runtime": "onnx"}, {"precision": "int8"}, {"precision": "bf16"}], ids=str)
def test_every_runtime_shares(make: Make, tmp_path: Path, options: dict[str, Any]) -> None:
    if options.keys() != {"precision"} or options["precision"] == "int8":
        pytest.importorskip("onnxruntime")
    folders = heads(make, "bert", tmp_path)
    expected = alone(folders, **options)
    classifiers = load_together(folders, **options)
    assert all(isinstance(classifier.runtime, HeadRuntime) for classifier in classifiers)
    assert {classifier.precision for classifier in classifiers} == {options.get("precision", "fp32")}
    ids = classifiers[0].encode(TEXTS)
    for found, logits in zip(forward_together(classifiers, [ids] * 3), expected, strict=True):
        np.testing.assert_allclose(found, logits, atol=1e-5)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_one_run_with_other_thresholds_or_labels_shares(make: Make, tmp_path: Path, tuning: str) -> None:
    made = make("llama", tuning=tuning, kind=ProblemType.MULTILABEL)
    other = made.with_info(thresholds=[0.1] * 4, temperature=2.0)
    renamed = LabelSpace(("e", "f", "g", "h"), ProblemType.MULTILABEL)
    named = made.with_info(label_space=renamed.to_json())
    folders = [one.save(tmp_path / str(number)) for number, one in enumerate((made, other, named))]
    classifiers = load_together(folders)
    assert all(isinstance(classifier.runtime, HeadRuntime) for classifier in classifiers)
    for classifier, folder in zip(classifiers, folders, strict=True):
        found, expected = classifier.predict(TEXTS), Classifier.load(folder).predict(TEXTS)
        assert [one.labels for one in found] == [one.labels for one in expected]
        assert found[0].probabilities == pytest.approx(expected[0].probabilities, abs=1e-5)


def test_other_weights_are_kept_apart(make: Make, write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    """Weights, adapters and configs that differ: none is taken for the other, whatever their names are."""
    source = write_tiny("llama", seed=5)
    narrow = write_tiny("llama", seed=5, rms_norm_eps=0.5)  # the same weights, another config
    made = [
        make_classifier(source, tuning="head"),
        make_classifier(narrow, tuning="head"),
        make_classifier(source, tuning="lora"),
        make_classifier(source, tuning="lora", seed=8),
        make_classifier(source),
        make_classifier(source, seed=8),
    ]
    assert made[0].info.backbone.sha256 == made[1].info.backbone.sha256
    folders = [one.save(tmp_path / str(number)) for number, one in enumerate(made)]
    assert len({pooled_by(folder, read_info(folder)) for folder in folders}) == len(folders)
    classifiers = load_together(folders)
    assert not any(isinstance(classifier.runtime, HeadRuntime) for classifier in classifiers)
    for classifier, logits in zip(classifiers, alone(folders), strict=True):
        np.testing.assert_allclose(classifier.logits(TEXTS), logits, atol=1e-5)
    with pytest.raises(ArtifactError, match=f"{folders[2]}: stands on another backbone than the one that is loaded"):
        SharedBackbone(folders[0]).classifier(folders[2])


def test_groups_and_token_ids_do_not_mix(make: Make, tmp_path: Path, passes: list[int]) -> None:
    """Two backbones in turn, and on one of them rows of another length: what is shared is the backbone and the ids."""
    first, second = heads(make, "bert", tmp_path / "bert"), heads(make, "llama", tmp_path / "llama")
    folders = [first[0], second[0], first[1], second[1], first[2]]
    expected = alone(folders)
    classifiers = load_together(folders)
    bert, llama = classifiers[0].encode(TEXTS), classifiers[1].encode(TEXTS)
    short = [row[:3] for row in bert]
    passes.clear()
    found = list(forward_together(classifiers, [bert, llama, bert, llama, short]))
    assert len(passes) == 3
    for logits, told in zip(found[:4], expected, strict=False):
        np.testing.assert_allclose(logits, told, atol=1e-5)
    np.testing.assert_allclose(found[4], Classifier.load(first[2]).forward(short), atol=1e-5)


def test_adapters_that_are_not_merged_hold_their_backbone_once(make: Make, tmp_path: Path) -> None:
    folders = [make("llama", tuning="lora", seed=seed).save(tmp_path / str(seed)) for seed in (1, 2)]
    expected = alone(folders, precision="bf16")
    classifiers = load_together(folders, precision="bf16")
    places: list[dict[str, int]] = []
    for classifier in classifiers:
        assert isinstance(classifier.runtime, TorchRuntime)
        places.append({n: p.data_ptr() for n, p in classifier.runtime.network.backbone.named_parameters()})
    shared = {name for name in places[0] if places[0][name] == places[1][name]}
    assert shared == {name for name in places[0] if "lora_" not in name}
    for classifier, logits in zip(classifiers, expected, strict=True):
        np.testing.assert_array_equal(classifier.logits(TEXTS), logits)
    assert np.abs(expected[0] - expected[1]).max() > 1e-2


def test_only_equal_weights_are_held_once() -> None:
    layers = [torch.nn.Linear(3, 2) for _ in range(3)]
    layers[1].load_state_dict(layers[0].state_dict())
    before = [{name: p.clone() for name, p in layer.named_parameters()} for layer in layers]
    held: dict[str, list[torch.Tensor]] = {}
    for layer in layers:
        hold_once(layer, held)
    assert layers[0].weight.data_ptr() == layers[1].weight.data_ptr() != layers[2].weight.data_ptr()
    assert {name: len(tensors) for name, tensors in held.items()} == {"weight": 2, "bias": 2}
    for layer, values in zip(layers, before, strict=True):
        assert all(torch.equal(p, values[name]) for name, p in layer.named_parameters())


def test_a_head_alone_is_the_head_of_the_whole(make: Make, architecture: str, tmp_path: Path) -> None:
    made = make(architecture, tuning="head")
    folder = made.save(tmp_path / "a")
    head, expected = load_head(folder, made.info), made.network.head.state_dict()
    assert {name: tensor.tolist() for name, tensor in head.state_dict().items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }
    assert {file.name for file in folder.iterdir()}.isdisjoint({"backbone", "adapter"})
    (folder / "head.safetensors").write_bytes(b"garbage")
    with pytest.raises(ArtifactError, match=r"head\.safetensors: does not hold this classifier's head"):
        load_head(folder, made.info)
    with pytest.raises(ArtifactError, match=r"head\.safetensors: damaged"):
        SharedBackbone(make(architecture, tuning="head").save(tmp_path / "b")).classifier(folder)


@pytest.fixture(scope="module")
def on_one(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[SharedBackbone, Classifier, Classifier]:
    folder = make("bert", tuning="head").save(tmp_path_factory.mktemp("one") / "a")
    backbone = SharedBackbone(folder)
    return backbone, backbone.classifier(folder), Classifier.load(folder)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.integers(0, 300), max_size=12), max_size=12))
def test_any_rows(on_one: tuple[SharedBackbone, Classifier, Classifier], rows: list[list[int]]) -> None:
    """Empty rows, equal rows, no rows at all."""
    backbone, shared, whole = on_one
    ids = [np.asarray(row, dtype=np.int32) for row in rows]
    pooled = backbone.pool(ids)
    assert (pooled.shape, pooled.dtype) == ((len(rows), 32), np.float32)
    np.testing.assert_allclose(shared.forward(ids), whole.forward(ids), atol=1e-5)


def test_a_head_trained_on_other_weights_is_refused(write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = write_tiny("bert", seed=1)
    folder = make_classifier(source, tuning="head").save(tmp_path / "a")
    whole = make_classifier(source)
    perturb(whole.network)
    whole.network.backbone.save_pretrained(source)  # type: ignore[operator]
    with pytest.raises(ArtifactError, match="its head was trained on other weights than those in"):
        Classifier.load(folder)
