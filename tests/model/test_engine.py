from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import END, TEXTS, Made, make_classifier, write_backbone
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from rayclf.data.texts import TextSource
from rayclf.errors import ConfigError, DataError, ResourceError
from rayclf.labels import ProblemType
from rayclf.model.engine import Classifier, choose_device, choose_precision
from rayclf.model.network import Network

Make = Callable[..., Made]


# --- logits ----------------------------------------------------------------------------------------------------------


def test_any_batch_size_gives_the_same_logits(make: Make, architecture: str) -> None:
    made = make(architecture)
    texts = [*TEXTS, f"ends in {END}", f"{END} {END}"]
    alone = np.concatenate([made.classifier.logits([text]) for text in texts])
    assert alone.dtype == np.float32
    assert alone.std(axis=0).min() > 0.05
    for max_tokens in (1, 40, 100, 10_000):
        classifier = made.with_runtime(max_tokens=max_tokens)
        np.testing.assert_allclose(classifier.logits(texts), alone, atol=1e-5)


@pytest.mark.parametrize("max_tokens", [1, 40, 10_000])
def test_packed_batches_give_the_same_logits(make: Make, architecture: str, tuning: str, max_tokens: int) -> None:
    made = make(architecture, tuning=tuning)
    if not made.network.packs:
        pytest.skip(f"{architecture} cannot pack")
    packed, padded = (made.with_runtime(max_tokens=max_tokens, batching=batching) for batching in ("packed", "padded"))
    assert packed.runtime.packed
    assert not padded.runtime.packed
    np.testing.assert_allclose(packed.logits(TEXTS), padded.logits(TEXTS), atol=1e-5)


def test_batching_is_padded_on_a_cpu_and_packed_by_word_only_where_the_backbone_can(make: Make, tmp_path: Path) -> None:
    made, other = make("bert"), make("gpt_neo")
    assert not made.classifier.runtime.packed
    assert Classifier.load(made.save(tmp_path / "artifact"), device="cpu", batching="packed").runtime.packed
    with pytest.raises(ConfigError, match=r"^batching packed: a backbone of type gpt_neo cannot"):
        other.with_runtime(batching="packed")
    with pytest.raises(ConfigError, match=r"^batching tight: must be one of auto, padded, packed"):
        made.with_runtime(batching="tight")  # type: ignore[arg-type]


def test_batching_is_packed_on_a_gpu(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "device", torch.device("cuda"))
    for name, packed in (("bert", True), ("gpt_neo", False)):
        made = make(name)
        assert made.with_runtime(max_tokens=100).runtime.packed is packed


@pytest.fixture(scope="module")
def lone(make: Make) -> tuple[Made, dict[str, Any]]:
    made = make("mistral")
    return made, {text: made.classifier.logits([text])[0] for text in [*TEXTS, END]}


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.sampled_from([*TEXTS, END]), min_size=1, max_size=12), max_tokens=st.integers(1, 300))
def test_company_in_the_batch_changes_no_logit(lone: Any, texts: list[str], max_tokens: int) -> None:
    made, expected = lone
    got = made.with_runtime(max_tokens=max_tokens).logits(texts)
    np.testing.assert_allclose(got, np.stack([expected[text] for text in texts]), atol=1e-5)


def test_no_texts_are_no_rows(make: Make, kind: ProblemType) -> None:
    classifier = make("bert", kind=kind).classifier
    assert classifier.logits([]).shape == (0, len(classifier.space))
    assert classifier.probabilities([]).shape == (0, len(classifier.space))
    assert classifier.predict([]) == []


@pytest.mark.parametrize("wrong", ["", "  \n", None, 3, b"bytes"])
def test_what_is_not_text_is_refused_by_its_place(make: Make, wrong: Any) -> None:
    with pytest.raises(DataError, match=r"^text 2 of 3 is empty or not a string"):
        make("bert").classifier.predict(["fine", wrong, "fine"])


def test_one_string_instead_of_a_list_is_refused(make: Make) -> None:
    with pytest.raises(DataError, match="put it in a list"):
        make("bert").classifier.predict("abc")


@pytest.fixture(scope="module")
def dropping_tokenizer() -> PreTrainedTokenizerFast:
    """Two letters, without special tokens or an unknown one: all else vanishes."""
    tokenizer = Tokenizer(models.BPE(vocab={"<pad>": 0, "a": 1, "b": 2}, merges=[]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=64)


@pytest.mark.parametrize("name", ["llama", "gpt_neo", "bert", "roberta", "modernbert"])
def test_text_of_no_tokens_is_answered(tmp_path: Any, name: str, dropping_tokenizer: PreTrainedTokenizerFast) -> None:
    made = make_classifier(write_backbone(tmp_path, name, tokenizer=dropping_tokenizer, pad_token_id=0))
    assert [len(ids) for ids in made.encoding(["ab", "zzz"])] == [2, 0]
    logits = made.classifier.logits(["ab", "zzz", "b"])
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[1], made.classifier.logits(["zzz"])[0], atol=1e-5)
    if made.network.packs:
        packed = made.with_runtime(batching="packed")
        np.testing.assert_allclose(packed.logits(["ab", "zzz", "b"]), logits, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_training_goes_on_as_it_was(make: Make, training: bool) -> None:
    made = make("llama")
    made.network.train(training)
    made.classifier.logits(TEXTS)
    assert {module.training for module in made.network.modules()} == {training}
    with pytest.raises(DataError):
        made.classifier.logits([""])
    assert {module.training for module in made.network.modules()} == {training}


def test_a_failing_forward_restores_training(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("llama")
    made.network.train()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(made.network, "forward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        made.classifier.logits(TEXTS)
    assert made.network.training


def test_dropout_and_gradients_are_off(make: Make) -> None:
    made = make("bert")
    made.network.train()
    assert any(isinstance(m, torch.nn.Dropout) and m.p > 0 for m in made.network.modules())
    assert np.array_equal(made.classifier.logits(TEXTS), made.classifier.logits(TEXTS))
    assert all(p.grad is None for p in made.network.parameters())


def test_template_is_what_the_model_reads(make: Make) -> None:
    made = make("llama")
    template = "Text: {text}\nTopic:"
    with_template = replace(made.encoding, template=template)
    got = made.with_runtime(with_template).logits(["A cell {x}!"])
    np.testing.assert_allclose(got, made.classifier.logits(["Text: A cell {x}!\nTopic:"]), atol=1e-6)


# --- pairs and chat --------------------------------------------------------------------------------------------------

PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))
CHAT = [{"role": "user", "content": "A cell!"}, {"role": "assistant", "content": "energy"}]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


@pytest.fixture(params=["bert", "llama"])
def pairs(make: Make, request: pytest.FixtureRequest) -> Made:
    return make(request.param, reads=TextSource(text="premise", text_pair="hypothesis"))


def test_a_pair_is_the_same_in_every_spelling_and_after_a_reload(pairs: Made, tmp_path: Any) -> None:
    expected = pairs.classifier.probabilities(PAIRS)
    assert np.ptp(expected, axis=0).max() > 0.01
    spelt = [{"text": first, "text_pair": second} for first, second in PAIRS]
    loaded = Classifier.load(pairs.save(tmp_path / "a"), device="cpu")
    for got in (loaded.probabilities(PAIRS), loaded.probabilities(spelt), loaded.probabilities([[*p] for p in PAIRS])):  # type: ignore[arg-type]
        np.testing.assert_allclose(got, expected, atol=1e-5)
    swapped = pairs.classifier.probabilities([(second, first) for first, second in PAIRS])
    assert np.abs(swapped - expected).max() > 1e-3


@pytest.mark.parametrize("wrong", ["text", ("a",), ("a", ""), ("a", None), {"text": "a"}, ["a", "b", "c"], None])
def test_a_classifier_of_pairs_wants_pairs(pairs: Made, wrong: Any) -> None:
    with pytest.raises(DataError, match=r"^text 2 of 2 must be a pair"):
        pairs.classifier.predict([("a", "b"), wrong])


@pytest.mark.parametrize("wrong", [("a", "b"), CHAT, {"text": "a", "text_pair": "b"}])
def test_a_classifier_of_texts_wants_texts(make: Make, wrong: Any) -> None:
    with pytest.raises(DataError, match=r"^text 1 of 1 must be one string"):
        make("bert").classifier.predict([wrong])


def test_chat_messages_go_through_the_chat_template(make: Make, tmp_path: Any) -> None:
    plain = make("llama")
    made = plain.with_info(reads=TextSource(messages="m"), chat_template=TEMPLATE)
    made = replace(made, encoding=made.info.encoding(made.encoding.tokenizer_json))
    expected = plain.classifier.probabilities(["A cell!energy"])
    loaded = Classifier.load(made.save(tmp_path / "a"), device="cpu")
    for classifier in (made.classifier, loaded):
        np.testing.assert_allclose(classifier.probabilities([CHAT, json.dumps(CHAT)]), [expected[0]] * 2, atol=1e-5)
    for wrong in ("text", CHAT[0], [], [("a", "b")], 3):
        with pytest.raises(DataError, match=r"^text 1 of 1 must be a list of chat messages .*not a list"):
            loaded.predict([wrong])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"^text 2 of 2: .*no tools"):
        loaded.predict([CHAT, [{"role": "tool", "content": "3"}]])


# --- probabilities and predictions -----------------------------------------------------------------------------------


def test_probabilities_are_of_the_problem_type(make: Make, kind: ProblemType) -> None:
    classifier = make("bert", kind=kind, temperature=1.7).classifier
    probabilities, logits = classifier.probabilities(TEXTS), torch.from_numpy(classifier.logits(TEXTS)) / 1.7
    expected = logits.softmax(-1) if kind is ProblemType.MULTICLASS else logits.sigmoid()
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert probabilities.dtype == np.float32


def interpreted(make: Make, kind: ProblemType, thresholds: list[float], rows: list[list[float]]) -> list[Any]:
    classifier = make("bert", kind=kind, thresholds=thresholds).classifier
    return classifier.interpret(np.asarray(rows, dtype=np.float32))


def test_multiclass_predictions(make: Make) -> None:
    """The most probable label holds, whatever the thresholds."""
    first, second = interpreted(make, ProblemType.MULTICLASS, [0.9] * 3, [[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]])
    assert (first.label, first.score, first.labels) == ("law", 0.5, ["law"])
    assert first.probabilities == {"biology": 0.25, "law": 0.5, "money": 0.25}
    assert (second.label, second.labels) == ("biology", ["biology"])


def test_binary_predictions_name_the_negation(make: Make) -> None:
    holds, edge, not_quite = interpreted(make, ProblemType.BINARY, [0.75], [[0.875], [0.75], [0.625]])
    assert (holds.label, holds.score, holds.labels) == ("spam", 0.875, ["spam"])
    assert (edge.label, edge.labels) == ("spam", ["spam"])
    assert (not_quite.label, not_quite.score, not_quite.labels) == ("not spam", 0.375, [])
    assert not_quite.probabilities == {"spam": 0.625}


def test_multilabel_predictions_have_their_own_thresholds(make: Make) -> None:
    thresholds = [0.5, 0.25, 0.75, 0.5]
    some, none = interpreted(make, ProblemType.MULTILABEL, thresholds, [[0.5, 0.375, 0.7, 0.1], [0.2, 0.1, 0.3, 0.4]])
    assert (some.label, some.labels) == ("c", ["a", "b"])
    assert some.score == pytest.approx(0.7)
    assert (none.label, none.labels) == ("d", [])
    assert list(none.probabilities) == ["a", "b", "c", "d"]


def test_predict_interprets_probabilities(make: Make, kind: ProblemType) -> None:
    classifier = make("llama", kind=kind, temperature=0.5).classifier
    assert classifier.predict(TEXTS) == classifier.interpret(classifier.probabilities(TEXTS))
    assert [type(p.score) for p in classifier.predict(TEXTS)] == [float] * len(TEXTS)


# --- places ----------------------------------------------------------------------------------------------------------


def test_device_auto_is_there() -> None:
    assert choose_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["nonsense", "", "cuda:99", "hpu", "vulkan"])
def test_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ResourceError, match=f"^--device {name}: not to be had here; use ") as caught:
        choose_device(name)
    assert "\n" not in str(caught.value)


def test_precision_is_taken_or_chosen() -> None:
    cpu = torch.device("cpu")
    assert choose_precision("fp32", cpu) == "fp32"
    assert choose_precision("bf16", cpu) == "bf16"
    assert choose_precision("auto", cpu) in ("fp32", "bf16")
    assert choose_precision("auto", torch.device("mps")) == "fp32"
    with pytest.raises(ConfigError, match="precision fp16: must be one of auto, fp32, bf16"):
        choose_precision("fp16", cpu)  # type: ignore[arg-type]


def test_load_on_a_cpu_is_float32_unless_asked(make: Make, tuning: str, tmp_path: Any) -> None:
    made = make("llama", tuning=tuning)
    folder = made.save(tmp_path / "a")
    assert Classifier.load(folder, device="cpu").precision == "fp32"
    with pytest.raises(ConfigError, match="precision half"):
        Classifier.load(folder, device="cpu", precision="half")  # type: ignore[arg-type]


def test_bfloat16_is_close_and_leaves_the_head_float32(make: Make, tuning: str, tmp_path: Any) -> None:
    made = make("llama", tuning=tuning)
    low = Classifier.load(made.save(tmp_path / "a"), device="cpu", precision="bf16")
    assert low.precision == "bf16"
    assert {p.dtype for p in low.runtime.network.head.parameters()} == {torch.float32}
    exact, got = made.classifier.probabilities(TEXTS), low.probabilities(TEXTS)
    assert 0 < np.abs(exact - got).max() < 0.1


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_encoder_by_onnx_runtime(make: Make, tmp_path: Any, precision: Any) -> None:
    made = make("bert")
    loaded = Classifier.load(made.save(tmp_path / "a"), device="cpu", runtime="onnx", precision=precision)
    assert loaded.precision == precision
    exact, got = made.classifier.probabilities(TEXTS), loaded.probabilities(TEXTS)
    np.testing.assert_allclose(got, exact, atol=1e-5 if precision == "fp32" else 0.1)
    assert precision == "fp32" or np.abs(got - exact).max() > 0


def test_auto_takes_onnx_runtime_for_many_rows_where_it_can(make: Make, tmp_path: Any) -> None:
    encoder, decoder = make("bert"), make("llama")
    for made, options, onnx in (
        (encoder, {}, True),
        (encoder, {"expected_rows": 10}, False),
        (encoder, {"batching": "packed"}, False),
        (encoder, {"runtime": "torch"}, False),
        (decoder, {}, False),
    ):
        settings = {"expected_rows": 5000, **options}
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        loaded = Classifier.load(made.save(folder), device="cpu", **settings)  # type: ignore[arg-type]
        assert (type(loaded.runtime).__name__ == "OnnxRuntime") is onnx
        np.testing.assert_allclose(loaded.probabilities(TEXTS), made.classifier.probabilities(TEXTS), atol=1e-5)


def test_auto_is_pytorch_for_an_encoder_that_onnx_runtime_cannot_take(tmp_path: Any) -> None:
    made = make_classifier(write_backbone(tmp_path / "b", "bert", hidden_act="mish"))
    folder = made.save(tmp_path / "a")
    loaded = Classifier.load(folder, device="cpu", expected_rows=5000)
    np.testing.assert_allclose(loaded.probabilities(TEXTS), made.classifier.probabilities(TEXTS), atol=1e-6)
    for options in ({"runtime": "onnx"}, {"precision": "int8"}):
        with pytest.raises(ConfigError, match="no activation 'mish'"):
            Classifier.load(folder, device="cpu", expected_rows=5000, **options)  # type: ignore[arg-type]


def test_a_runtime_that_cannot_be_had_is_told(make: Make, tmp_path: Any) -> None:
    folder = make("llama").save(tmp_path / "a")
    for options, message in (
        ({"runtime": "jax"}, "--runtime jax: must be one of auto, torch, onnx"),
        ({"runtime": "torch", "precision": "int8"}, "--precision int8: only --runtime onnx has it"),
        ({"runtime": "onnx", "precision": "bf16"}, "--precision bf16: --runtime onnx knows fp32 and int8"),
        ({"runtime": "onnx"}, "--runtime torch"),
    ):
        with pytest.raises(ConfigError, match=message):
            Classifier.load(folder, device="cpu", **options)  # type: ignore[arg-type]


def test_equal_rows_are_computed_once(make: Make) -> None:
    classifier = make("bert").classifier
    seen: list[int] = []
    inner = classifier.runtime

    class Counting:
        precision = "fp32"

        def __call__(self, ids: Any) -> Any:
            seen.append(len(ids))
            return inner(ids)

    expected = classifier.logits(TEXTS)
    classifier.runtime = Counting()
    doubled = [text for text in TEXTS for _ in range(3)]
    np.testing.assert_allclose(classifier.logits(doubled), expected.repeat(3, axis=0), atol=1e-6)
    assert seen == [len(set(TEXTS))]
