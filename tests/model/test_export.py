from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import DECODERS, END, TEXTS, Made, decoder_tokenizer, make_classifier, perturb, train, write_backbone
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, pipeline

from rayclf.config import LoraConfig
from rayclf.errors import ArtifactError, OutputError
from rayclf.labels import ProblemType
from rayclf.model import export as module
from rayclf.model.engine import Classifier
from rayclf.model.export import export

Make = Callable[..., Made]


def by_transformers(folder: Path, texts: list[str], kind: ProblemType) -> np.ndarray[Any, Any]:
    """Probabilities of a padded batch, by Transformers alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    assert batch["attention_mask"].min() == 0
    with torch.no_grad():
        logits = model(**batch).logits
    return (logits.softmax(-1) if kind is ProblemType.MULTICLASS else logits.sigmoid()).numpy()


def test_transformers_gives_the_same_probabilities(
    make: Make, architecture: str, tuning: str, kind: ProblemType, tmp_path: Path
) -> None:
    made = make(architecture, tuning=tuning, kind=kind)
    folder = export(made.save(tmp_path / "a"), tmp_path / "exported")
    assert folder == tmp_path / "exported"
    texts = [*TEXTS, f"{END} in the {END} midst", "long " * 90]
    got = by_transformers(folder, texts, kind)
    assert got.std(axis=0).min() > 1e-3
    np.testing.assert_allclose(got, made.classifier.probabilities(texts), atol=1e-5)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_backbone_is_exported_as_floats(
    make: Make, architecture: str, quantization: str, tmp_path: Path
) -> None:
    """The adapter is merged into what the quantised weights stand for, never into 4 bits."""
    made = make(architecture, tuning="qlora", quantization=quantization, moved=False)
    train(made)
    folder = export(made.save(tmp_path / "a"), tmp_path / "e")
    assert "quantization" not in (folder / "config.json").read_text()
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    got = by_transformers(folder, TEXTS, ProblemType.MULTICLASS)
    np.testing.assert_allclose(got, made.classifier.probabilities(TEXTS), atol=1e-4)


@pytest.mark.parametrize("option", ["dora", "rslora"])
@pytest.mark.parametrize("tuning", ["lora", "qlora"])
@pytest.mark.parametrize("name", ["llama", "gpt_neo", "bert"])
def test_lora_options_hold_from_training_to_export(
    make: Make, name: str, tuning: str, option: str, tmp_path: Path
) -> None:
    made = make(name, tuning=tuning, moved=False, lora=LoraConfig(r=4, alpha=16, **{option: True}))
    train(made)
    trained = made.classifier.logits(TEXTS)
    artifact = made.save(tmp_path / "a")
    np.testing.assert_allclose(Classifier.load(artifact, device="cpu").logits(TEXTS), trained, atol=1e-4)
    got = by_transformers(export(artifact, tmp_path / "e"), TEXTS, ProblemType.MULTICLASS)
    np.testing.assert_allclose(got, made.classifier.probabilities(TEXTS), atol=1e-4)


def test_config_and_tokenizer_tell_labels_and_pad_token(make: Make, architecture: str, tmp_path: Path) -> None:
    made = make(architecture, kind=ProblemType.MULTILABEL)
    folder = export(made.save(tmp_path / "a"), tmp_path / "e")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    assert model.config.label2id == {"a": 0, "b": 1, "c": 2, "d": 3}
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.architectures == [type(model).__name__]
    assert model.config.pad_token_id == tokenizer.pad_token_id == made.info.pad_token_id
    assert tokenizer.model_max_length == 64
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    files = {f.suffix for f in folder.iterdir()}
    assert files <= {".json", ".safetensors", ".jinja", ".txt"}


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("name", ["llama", "bert", "roberta", "modernbert"])
def test_temperature_is_in_the_weights(make: Make, name: str, temperature: float, tmp_path: Path) -> None:
    made = make(name, temperature=temperature)
    folder = export(made.save(tmp_path / "a"), tmp_path / "e")
    got = by_transformers(folder, TEXTS, ProblemType.MULTICLASS)
    np.testing.assert_allclose(got, made.classifier.probabilities(TEXTS), atol=1e-5)
    plain = made.with_info(temperature=1.0).classifier.probabilities(TEXTS)
    assert np.abs(got - plain).max() > 1e-2


@pytest.mark.parametrize("name", ["llama", "gpt_neo", "bert", "modernbert"])
def test_pipeline_loads_it(make: Make, name: str, kind: ProblemType, tmp_path: Path) -> None:
    made = make(name, kind=kind)
    folder = export(made.save(tmp_path / "a"), tmp_path / "e")
    classify = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    for answer, prediction in zip(classify(TEXTS, batch_size=4), made.classifier.predict(TEXTS), strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert scores == pytest.approx(prediction.probabilities, abs=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_left_padding_of_the_backbone_is_not_exported(tmp_path: Path, name: str) -> None:
    """Decoders often come with it, and learned positions would shift."""
    source = write_backbone(tmp_path / "b", name, tokenizer=decoder_tokenizer(padding_side="left"))
    made = make_classifier(source)
    folder = export(made.save(tmp_path / "a"), tmp_path / "e")
    got = by_transformers(folder, TEXTS, ProblemType.MULTICLASS)
    np.testing.assert_allclose(got, made.classifier.probabilities(TEXTS), atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("vocabulary", [320, None])
def test_texts_that_end_in_the_pad_token_keep_their_end(tmp_path: Path, name: str, vocabulary: int | None) -> None:
    """Some decoders put their end token behind every text and pad with it; Transformers would skip it as padding."""
    tokenizer = decoder_tokenizer(ends=True)
    source = write_backbone(tmp_path / "b", name, tokenizer=tokenizer, vocab_size=vocabulary or len(tokenizer))
    made = make_classifier(source, tuning="lora")
    assert made.encoding(["a"])[0][-1] == made.info.pad_token_id
    folder = export(made.save(tmp_path / "a"), tmp_path / "e")
    got = by_transformers(folder, TEXTS, ProblemType.MULTICLASS)
    np.testing.assert_allclose(got, made.classifier.probabilities(TEXTS), atol=1e-5)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id != made.info.pad_token_id


def test_artifact_stays_as_it_was(make: Make, tmp_path: Path) -> None:
    made = make("llama", tuning="lora", temperature=2.0)
    artifact = made.save(tmp_path / "a")
    export(artifact, tmp_path / "e")
    again = Classifier.load(artifact, device="cpu")
    np.testing.assert_allclose(again.probabilities(TEXTS), made.classifier.probabilities(TEXTS), atol=1e-5)


def test_an_empty_folder_is_filled(make: Make, tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    export(make("bert").save(tmp_path / "a"), tmp_path / "e")
    assert (tmp_path / "e" / "config.json").is_file()


@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_taken_place_is_refused(make: Make, tmp_path: Path, what: str) -> None:
    artifact = make("bert").save(tmp_path / "a")
    place = tmp_path / "e"
    kept = place
    if what == "folder":
        place.mkdir()
        kept = place / "mine.txt"
    kept.write_text("mine")
    with pytest.raises(OutputError, match="exists and is not an empty folder; choose another") as caught:
        export(artifact, place)
    assert str(place) in str(caught.value)
    assert kept.read_text() == "mine"


def test_a_broken_artifact_leaves_nothing(make: Make, tmp_path: Path) -> None:
    artifact = make("bert").save(tmp_path / "a")
    (artifact / "head.safetensors").unlink()
    with pytest.raises(ArtifactError):
        export(artifact, tmp_path / "e")
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("when", ["model", "tokenizer"])
def test_a_failure_leaves_nothing_half_written(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    artifact = make("bert").save(tmp_path / "a")

    def fail(*args: Any, **settings: Any) -> None:
        raise OSError("no space left on device")

    if when == "model":
        monkeypatch.setattr(PreTrainedModel, "save_pretrained", fail)
    else:
        real = module.load_tokenizer

        def load(folder: Path) -> Any:
            tokenizer = real(folder)
            monkeypatch.setattr(tokenizer, "save_pretrained", fail, raising=False)
            return tokenizer

        monkeypatch.setattr(module, "load_tokenizer", load)
    with pytest.raises(OSError, match="no space"):
        export(artifact, tmp_path / "e")
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_biases_and_norms_go_along(make: Make, tmp_path: Path) -> None:
    """All parts of a head, moved far."""
    for name in ("bert", "roberta", "distilbert", "modernbert"):
        made = make(name)
        perturb(made.network.head, scale=0.5, seed=3)
        folder = export(made.save(tmp_path / f"{name}-a"), tmp_path / name)
        got = by_transformers(folder, TEXTS, ProblemType.MULTICLASS)
        np.testing.assert_allclose(got, made.classifier.probabilities(TEXTS), atol=1e-5)
