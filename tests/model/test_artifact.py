from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny import END, TEXTS, Made, make_classifier, perturb, train
from transformers import AutoTokenizer

from rayclf.config import LoraConfig
from rayclf.errors import ArtifactError, BackboneError, RayclfError
from rayclf.labels import ProblemType
from rayclf.model.artifact import load_artifact, load_weights, save_artifact
from rayclf.model.backbone import load_network
from rayclf.model.engine import Classifier
from rayclf.model.info import BackboneRef, find_artifact, read_info, verify
from rayclf.model.tensors import whole_tensors

Make = Callable[..., Made]


@pytest.fixture(params=["full", "lora", "qlora"])
def tuning(request: pytest.FixtureRequest) -> str:
    """Each way of tuning, quantised backbones included."""
    return str(request.param)


def load(folder: Path, **settings: Any) -> Classifier:
    return Classifier.load(folder, device="cpu", **settings)


# --- what is saved comes back ----------------------------------------------------------------------------------------


def test_reloaded_classifier_gives_the_same_probabilities(
    make: Make, architecture: str, tuning: str, tmp_path: Path
) -> None:
    made = make(architecture, tuning=tuning, moved=False)
    texts = [*TEXTS, f"it ends in {END}"]
    before = made.classifier.probabilities(texts)
    train(made)
    trained = made.classifier.probabilities(texts)
    assert np.abs(trained - before).max() > 1e-2
    np.testing.assert_allclose(load(made.save(tmp_path / "a")).probabilities(texts), trained, atol=1e-5)


def test_head_is_not_random_after_reload(make: Make, architecture: str, tuning: str, tmp_path: Path) -> None:
    made = make(architecture, tuning=tuning)
    torch.manual_seed(99)
    network, _, _ = load_artifact(made.save(tmp_path / "a"))
    saved = made.network.head.state_dict()
    loaded = network.head.state_dict()
    assert list(loaded) == list(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}


def test_merging_keeps_head_and_logits(make: Make, architecture: str, tmp_path: Path) -> None:
    made = make(architecture, tuning="lora")
    folder = made.save(tmp_path / "a")
    apart = load_network(made.source, made.info.space, seed=11)
    load_weights(apart, folder, made.info, merge=False)
    merged = load_network(made.source, made.info.space, seed=12)
    load_weights(merged, folder, made.info, merge=True)
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    ids = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other, live = (n.eval()(ids, torch.ones_like(ids)) for n in (apart, merged, made.network))
    torch.testing.assert_close(one, live, atol=1e-6, rtol=0)
    torch.testing.assert_close(other, live, atol=1e-5, rtol=0)


def test_bfloat16_backbone_keeps_a_float32_head_and_adapter(make: Make, tmp_path: Path) -> None:
    made = make("llama", tuning="lora", dtype=torch.bfloat16)
    folder = made.save(tmp_path / "a")
    for file in (folder / "head.safetensors", folder / "adapter" / "adapter_model.safetensors"):
        assert {t.dtype for t in safetensors.torch.load_file(file).values()} == {torch.float32}
    network, _, _ = load_artifact(folder, dtype=torch.bfloat16)
    kinds = {name.split(".")[0]: p.dtype for name, p in network.named_parameters() if "lora_" not in name}
    assert kinds == {"head": torch.float32, "backbone": torch.bfloat16}
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(network.eval()(ids, torch.ones_like(ids)), made.network(ids, torch.ones_like(ids)))


def test_all_of_the_description_comes_back(make: Make, kind: ProblemType, tmp_path: Path) -> None:
    size = {"binary": 1, "multiclass": 3}.get(kind, 4)
    made = make("bert", kind=kind, thresholds=[0.3] * size, temperature=2.5, metrics={"test": {"f1_macro": 0.5}})
    classifier = load(made.save(tmp_path / "a"))
    assert classifier.info.model_dump(exclude={"files"}) == made.info.model_dump(exclude={"files"})
    assert classifier.space == made.info.space
    assert classifier.predict(TEXTS) == pytest.approx(made.classifier.predict(TEXTS))


def test_tokens_come_back(make: Make, architecture: str, tmp_path: Path) -> None:
    made = make(architecture)
    folder = made.save(tmp_path / "a")
    texts = [*TEXTS, "Ünknown ⚙ letters", "a" * 500]
    _, encoding, _ = load_artifact(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == made.info.pad_token_id
    for mine, loaded, theirs in zip(
        made.encoding(texts),
        encoding(texts),
        tokenizer(texts, truncation=True, max_length=64)["input_ids"],
        strict=True,
    ):
        assert mine.tolist() == loaded.tolist() == theirs


def test_nothing_is_pickled(make: Make, architecture: str, tuning: str, tmp_path: Path) -> None:
    folder = make(architecture, tuning=tuning).save(tmp_path / "a")
    files = {f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()}
    assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".jinja", ".txt", ".model"}
    assert {"rayclf.json", "head.safetensors", "tokenizer.json"} < files
    weights = "backbone/model.safetensors" if tuning == "full" else "adapter/adapter_model.safetensors"
    assert weights in files
    assert set(read_info(folder).files) == files - {"rayclf.json"}


def test_training_depends_on_the_targets(make: Make, tuning: str) -> None:
    """The classic failure is a wrapper that swallows the labels, so that nothing is learnt from them."""
    made = make("llama", tuning=tuning, moved=False)
    train(made, steps=24)
    wanted = [made.info.space.names[row % 3] for row in range(len(TEXTS))]
    assert [prediction.label for prediction in made.classifier.predict(TEXTS)] == wanted


# --- adapter and backbone must be of one kind ------------------------------------------------------------------------


def test_adapter_on_other_weights_is_refused(write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = write_tiny("llama", seed=1)
    folder = make_classifier(source, tuning="lora").save(tmp_path / "a")
    load(folder)
    shutil.rmtree(source)
    shutil.copytree(write_tiny("llama", seed=2), source)
    with pytest.raises(ArtifactError, match="its adapter was trained on other weights than those in") as caught:
        load(folder)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_adapter_whose_backbone_is_gone_is_refused(write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = write_tiny("llama")
    folder = make_classifier(source, tuning="lora").save(tmp_path / "a")
    shutil.rmtree(source)
    with pytest.raises(BackboneError, match="no such folder") as caught:
        load(folder)
    assert str(source) in str(caught.value)


def test_full_artifact_needs_its_backbone_no_more(write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = write_tiny("bert")
    made = make_classifier(source)
    folder = made.save(tmp_path / "a")
    shutil.rmtree(source)
    np.testing.assert_allclose(load(folder).probabilities(TEXTS), made.classifier.probabilities(TEXTS), atol=1e-5)


@pytest.mark.parametrize("change", ["drop", "add"])
def test_adapter_tensors_must_match_even_unverified(make: Make, tmp_path: Path, change: str) -> None:
    folder = make("bert", tuning="lora").save(tmp_path / "a")
    file = folder / "adapter" / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    name = min(tensors)
    if change == "drop":
        del tensors[name]
    else:
        tensors[name.replace("layer.0", "layer.7")] = tensors[name].clone()
    safetensors.torch.save_file(tensors, file)
    with pytest.raises(ArtifactError, match="does not fit its backbone"):
        load_artifact(folder, check=False)
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors: damaged"):
        load_artifact(folder)


@pytest.mark.parametrize("change", ["missing", "garbage", "other name", "other shape"])
def test_head_must_match_even_unverified(make: Make, tmp_path: Path, change: str) -> None:
    folder = make("bert").save(tmp_path / "a")
    file = folder / "head.safetensors"
    tensors = safetensors.torch.load_file(file)
    file.unlink()
    if change == "garbage":
        file.write_bytes(b"garbage")
    elif change == "other name":
        safetensors.torch.save_file({f"x.{name}": tensor for name, tensor in tensors.items()}, file)
    elif change == "other shape":
        safetensors.torch.save_file(tensors | {"out.weight": torch.zeros(2, 32)}, file)
    with pytest.raises(ArtifactError, match=r"head\.safetensors: does not hold this classifier's head") as caught:
        load_artifact(folder, check=False)
    assert "\n" not in str(caught.value)


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["full", "lora"])
def whole(request: pytest.FixtureRequest, make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("llama", tuning=request.param).save(tmp_path_factory.mktemp("whole") / "a")


def test_a_flipped_byte_anywhere_is_found(whole: Path, tmp_path: Path) -> None:
    names = [f.relative_to(whole) for f in whole.rglob("*") if f.is_file() and f.name != "rayclf.json"]
    assert len(names) >= 4
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(ArtifactError, match="damaged") as caught:
            load(folder)
        assert str(folder / name) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(whole: Path, tmp_path: Path) -> None:
    for name in read_info(whole).files:
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(whole, folder)
        (folder / name).unlink()
        with pytest.raises(ArtifactError, match="missing; the artifact is not whole") as caught:
            load(folder)
        assert str(folder / name) in str(caught.value)


def valid(whole: Path) -> dict[str, Any]:
    return dict(json.loads((whole / "rayclf.json").read_text()))


def spoil(data: dict[str, Any]) -> dict[str, str | bytes]:
    space = data["label_space"]
    twice = {**space, "labels": space["labels"][:1] * 2}
    return {
        "empty": "",
        "truncated": json.dumps(data)[: len(json.dumps(data)) // 2],
        "garbled": b"\xff\xfe\x00garbage",
        "a list": "[]",
        "a number": "3",
        "null": "null",
        "nothing": "{}",
        "later format": json.dumps({**data, "format": 2}),
        "unknown field": json.dumps({**data, "surprise": 1}),
        "full tuning of quantised weights": json.dumps({**data, "tuning": "full", "quantization": "nf4"}),
        "unknown method": json.dumps({**data, "method": "likelihood"}),
        "zero temperature": json.dumps({**data, "temperature": 0}),
        "too few thresholds": json.dumps({**data, "thresholds": [0.5]}),
        "labels that repeat": json.dumps({**data, "label_space": twice}),
        "labels gone": json.dumps({**data, "label_space": {}}),
        "labels of no form": json.dumps({**data, "label_space": {"problem_type": "multiclass", "labels": ["a", "b"]}}),
        "unknown problem type": json.dumps({**data, "label_space": {**space, "problem_type": "regression"}}),
    }


def test_a_damaged_description_is_named(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "a")
    file = tmp_path / "a" / "rayclf.json"
    for how, content in spoil(valid(whole)).items():
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ArtifactError, match="damaged") as caught:
            load(tmp_path / "a")
        assert str(file) in str(caught.value), how
        assert "\n" not in str(caught.value), how


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match="no such folder; give an artifact or a run folder"):
        load(tmp_path / "missing")
    for name in ("file", "folder"):
        with pytest.raises(ArtifactError, match=r"neither an artifact nor a finished run: no rayclf\.json in it"):
            load(tmp_path / name)


def test_damaged_tokenizer_is_found_even_unverified(make: Make, tmp_path: Path) -> None:
    folder = make("bert").save(tmp_path / "a")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: does not hold a tokenizer") as caught:
        load_artifact(folder, check=False)
    assert "\n" not in str(caught.value)


def test_a_run_folder_is_its_artifact(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run" / "artifact")
    assert find_artifact(tmp_path / "run") == tmp_path / "run" / "artifact"
    assert find_artifact(str(whole)) == whole
    verify(whole, read_info(whole))


def test_saving_twice_into_new_folders_is_the_same(make: Make, tuning: str, tmp_path: Path) -> None:
    """Saving changes nothing about the live classifier, so that training goes on after a checkpoint."""
    made = make("llama", tuning=tuning)
    names = {name: p.requires_grad for name, p in made.network.named_parameters()}
    first, second = (read_info(made.save(tmp_path / name)).files for name in "ab")
    assert first == second
    assert {name: p.requires_grad for name, p in made.network.named_parameters()} == names
    perturb(made.network)
    save_artifact(tmp_path / "c", made.network, made.tokenizer, made.info)
    assert read_info(tmp_path / "c").files["head.safetensors"] != first["head.safetensors"]


# --- partitioned parameters ------------------------------------------------------------------------------------------


def partition(network: torch.nn.Module, frozen: bool = True) -> dict[str, torch.Tensor]:
    """What ZeRO-3 does to a network: nothing is left in its parameters. Returns the trained ones, whole."""
    weights = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            weights[name] = parameter.detach().clone()
        if parameter.requires_grad or frozen:
            parameter.data = torch.empty(0, dtype=parameter.dtype)
    return weights


def test_whole_weights_are_saved_of_a_partitioned_network(
    make: Make, architecture: str, tuning: str, tmp_path: Path
) -> None:
    made = make(architecture, tuning=tuning)
    expected, whole = made.classifier.probabilities(TEXTS), read_info(made.save(tmp_path / "whole")).files
    weights = partition(made.network)
    save_artifact(tmp_path / "a", made.network, made.tokenizer, made.info, weights)
    assert read_info(tmp_path / "a").files == whole
    np.testing.assert_allclose(load(tmp_path / "a").probabilities(TEXTS), expected, atol=1e-5)


def test_given_weights_take_the_place_of_the_networks_own(make: Make, tuning: str, tmp_path: Path) -> None:
    made = make("bert", tuning=tuning)
    weights = {name: p.detach().clone() for name, p in made.network.named_parameters() if p.requires_grad}
    expected = made.classifier.probabilities(TEXTS)
    perturb(made.network)
    assert np.abs(made.classifier.probabilities(TEXTS) - expected).max() > 1e-3
    save_artifact(tmp_path / "a", made.network, made.tokenizer, made.info, weights)
    np.testing.assert_allclose(load(tmp_path / "a").probabilities(TEXTS), expected, atol=1e-5)


def test_dora_of_a_partitioned_network(make: Make, tmp_path: Path) -> None:
    made = make("llama", tuning="qlora", lora=LoraConfig(r=4, dora=True))
    expected = made.classifier.probabilities(TEXTS)
    save_artifact(tmp_path / "a", made.network, made.tokenizer, made.info, partition(made.network))
    np.testing.assert_allclose(load(tmp_path / "a").probabilities(TEXTS), expected, atol=1e-5)


def test_an_empty_tensor_is_never_saved(make: Make, tuning: str, tmp_path: Path) -> None:
    made = make("bert", tuning=tuning)
    weights = partition(made.network)
    for number, lost in enumerate((None, min(weights), max(weights))):
        given = {name: tensor for name, tensor in weights.items() if name != lost} if lost else None
        with pytest.raises(RayclfError, match="empty on this process, being partitioned over several"):
            save_artifact(tmp_path / str(number), made.network, made.tokenizer, made.info, given)
        assert not (tmp_path / str(number) / "rayclf.json").exists()


@pytest.mark.parametrize("name", ["backbone.module.x", "head.weight"])
def test_weights_of_unknown_names_are_refused(make: Make, tmp_path: Path, name: str) -> None:
    made = make("bert")
    with pytest.raises(RayclfError, match=f"{name}: not a parameter of this network"):
        save_artifact(tmp_path / "a", made.network, made.tokenizer, made.info, {name: torch.zeros(1)})


def test_tied_weights_and_buffers_are_saved_with_given_weights() -> None:
    module = torch.nn.Module()
    module.one, module.other = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(2, 3, bias=False)
    module.other.weight = module.one.weight
    module.register_buffer("kept", torch.ones(2))
    module.register_buffer("left", torch.ones(2), persistent=False)
    new = torch.full((3, 2), 7.0)
    state = whole_tensors(module, "backbone.", {"backbone.one.weight": new, "head.x": new})
    assert state.keys() == {"one.weight", "other.weight", "kept"}
    assert state["one.weight"] is state["other.weight"] is new


# --- quantised backbones ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_reloaded_adapter_stands_on_the_quantised_weights(
    make: Make, architecture: str, quantization: str, tmp_path: Path
) -> None:
    made = make(architecture, tuning="qlora", quantization=quantization, moved=False)
    train(made)
    folder = made.save(tmp_path / "a")
    ids = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    network, _, info = load_artifact(folder)
    assert info.quantization == quantization
    assert not any("lora_" in name for name, _ in network.named_parameters()), "merged"
    assert {type(m) for m in network.backbone.modules() if isinstance(m, torch.nn.Linear)} == {torch.nn.Linear}
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    plain = load_network(made.source, made.info.space)
    load_weights(plain, folder, made.info, merge=True)
    with torch.no_grad():
        reloaded, live, other = (n.eval()(ids, torch.ones_like(ids)) for n in (network, made.network, plain))
    torch.testing.assert_close(reloaded, live, atol=1e-4, rtol=0)
    assert (other - live).abs().max() > (1e-2 if quantization == "nf4" else 5e-4)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_bfloat16_artifact_of_a_quantised_backbone(make: Make, quantization: str, tmp_path: Path) -> None:
    made = make("llama", tuning="qlora", quantization=quantization, dtype=torch.bfloat16)
    network, _, _ = load_artifact(made.save(tmp_path / "a"), dtype=torch.bfloat16)
    ids = torch.randint(5, 300, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        reloaded, live = (n.eval()(ids, torch.ones_like(ids)) for n in (network, made.network))
    torch.testing.assert_close(reloaded, live, atol=0.05, rtol=0)
    kinds = {name.split(".")[0]: p.dtype for name, p in network.named_parameters() if "lora_" not in name}
    assert kinds == {"head": torch.float32, "backbone": torch.bfloat16}


def test_training_goes_on_from_a_checkpoint_on_quantised_weights(make: Make, tmp_path: Path) -> None:
    made = make("llama", tuning="qlora", moved=False)
    train(made)
    folder = made.save(tmp_path / "a")
    network = load_network(made.source, made.info.space, quantization="nf4")
    load_weights(network, folder, made.info, merge=False, trainable=True)
    resumed = replace(made, network=network)
    assert {n for n, p in network.named_parameters() if p.requires_grad} == {
        n for n, p in made.network.named_parameters() if p.requires_grad
    }
    train(made)
    train(resumed)
    np.testing.assert_allclose(resumed.classifier.probabilities(TEXTS), made.classifier.probabilities(TEXTS), atol=1e-6)


def test_quantised_artifact_needs_bitsandbytes(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("llama", tuning="qlora").save(tmp_path / "a")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ArtifactError, match=r"quantised weights \(qlora\); install rayclf\[qlora\]") as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quantised_adapter_on_other_weights_is_refused(write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = write_tiny("llama", seed=1)
    folder = make_classifier(source, tuning="qlora").save(tmp_path / "a")
    shutil.rmtree(source)
    shutil.copytree(write_tiny("llama", seed=2), source)
    with pytest.raises(ArtifactError, match="its adapter was trained on other weights than those in"):
        load(folder)


def test_a_head_alone_is_trained_and_comes_back(write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    source = write_tiny("bert")
    made = make_classifier(source, tuning="head", moved=False)
    before = made.classifier.probabilities(TEXTS)
    untouched = {name: tensor.clone() for name, tensor in made.network.backbone.state_dict().items()}
    train(made)
    trained = made.classifier.probabilities(TEXTS)
    assert np.abs(trained - before).max() > 1e-2
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in made.network.backbone.state_dict().items())
    folder = made.save(tmp_path / "a")
    names = {f.name for f in folder.rglob("*.safetensors")}
    assert names == {"head.safetensors"}
    np.testing.assert_allclose(load(folder).probabilities(TEXTS), trained, atol=1e-5)
    shutil.rmtree(source)
    with pytest.raises(BackboneError, match="no such folder"):
        load(folder)


@pytest.mark.parametrize(
    ("where", "name"),
    [("sentence-transformers/all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"), ("/home/me/qwen", "qwen")],
)
def test_a_backbone_is_called_by_its_name(where: str, name: str) -> None:
    assert BackboneRef(id=where, revision=None, model_type="bert", sha256={}).name == name
