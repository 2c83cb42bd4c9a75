"""ONNX Runtime against the PyTorch runtime, on tiny encoders of every type it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TEXTS, Made, encoder_tokenizer, make_classifier, train, write_backbone

from rayclf.config import LoraConfig
from rayclf.data.tokens import Ids
from rayclf.errors import ConfigError
from rayclf.model.adapters import add_lora
from rayclf.model.runtime import onnx as onnx_module
from rayclf.model.runtime.onnx import OnnxPrecision, OnnxRuntime
from rayclf.model.runtime.onnx_encoder import ONNX_TYPES
from rayclf.model.runtime.pytorch import TorchRuntime

AFTER_PAD = ("roberta", "xlm-roberta", "camembert")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A factory: the tiny classifier of a type, with moved weights, made once."""

    @lru_cache
    def of(name: str) -> Made:
        tokenizer = encoder_tokenizer("roberta" if name in AFTER_PAD else "bert")
        folder = tmp_path_factory.mktemp("onnx") / name
        fields = {"embedding_size": 16} if name == "electra" else {}  # a projection follows, as in ELECTRA-small
        return make_classifier(write_backbone(folder, name, tokenizer=tokenizer, **fields))

    return of


def some_rows(*lengths: int) -> list[Ids]:
    """Random token ids of given lengths; special tokens may be anywhere."""
    generator = np.random.default_rng(sum(lengths))
    return [generator.integers(0, 300, length, dtype=np.int32) for length in lengths]


def both(made: Made, rows: list[Ids], **options: int) -> tuple[np.ndarray, np.ndarray]:
    pad = made.info.pad_token_id
    return OnnxRuntime(made.network, pad, **options)(rows), TorchRuntime(made.network, pad)(rows)


@pytest.mark.parametrize("name", sorted(ONNX_TYPES))
def test_every_type_gives_the_logits_of_pytorch(made: Callable[[str], Made], name: str) -> None:
    found, expected = both(made(name), some_rows(7, 1, 23, 7, 60, 0, 2, 23))
    assert found.dtype == np.float32
    assert np.ptp(expected, axis=0).max() > 0.1  # rows that differ, or nothing would be compared
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def pair(made: Callable[[str], Made]) -> tuple[OnnxRuntime, TorchRuntime]:
    """Both runtimes of one network, whose positions depend on its tokens."""
    parts = made("roberta")
    return (
        OnnxRuntime(parts.network, parts.info.pad_token_id, max_tokens=50),
        TorchRuntime(parts.network, parts.info.pad_token_id),
    )


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(0, 70), min_size=0, max_size=20))
def test_rows_of_any_lengths_keep_their_order(pair: tuple[OnnxRuntime, TorchRuntime], lengths: list[int]) -> None:
    rows = some_rows(*lengths)
    onnx, pytorch = pair
    np.testing.assert_allclose(onnx(rows), pytorch(rows), atol=1e-5)


def test_an_empty_row_is_one_pad_token(made: Callable[[str], Made]) -> None:
    parts = made("bert")
    pad = np.asarray([parts.info.pad_token_id], dtype=np.int32)
    runtime = OnnxRuntime(parts.network, parts.info.pad_token_id)
    np.testing.assert_array_equal(runtime(some_rows(0)), runtime([pad]))
    assert runtime([]).shape == (0, 3)


def test_other_weights_afterwards_change_nothing(made: Callable[[str], Made]) -> None:
    parts = make_classifier(made("bert").source)
    runtime = OnnxRuntime(parts.network, parts.info.pad_token_id)
    before = runtime(some_rows(5))
    with torch.no_grad():
        for parameter in parts.network.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(runtime(some_rows(5)), before)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_activations_of_the_config(tmp_path: Path, activation: str) -> None:
    parts = make_classifier(write_backbone(tmp_path / "b", "bert", hidden_act=activation))
    found, expected = both(parts, some_rows(9, 30))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_activation_that_it_has_not_is_refused(tmp_path: Path) -> None:
    parts = make_classifier(write_backbone(tmp_path / "b", "bert", hidden_act="mish"))
    with pytest.raises(ConfigError, match="no activation 'mish'.*use --runtime torch"):
        OnnxRuntime(parts.network, 0)


@pytest.mark.parametrize("name", ["modernbert", "llama"])
def test_types_that_it_has_not_are_refused(make: Callable[..., Made], name: str) -> None:
    with pytest.raises(ConfigError, match=f"type '{name}'.*--runtime torch"):
        OnnxRuntime(make(name).network, 0)


def test_a_decoder_and_an_adapter_beside_are_refused(made: Callable[[str], Made], tmp_path: Path) -> None:
    beside = make_classifier(made("bert").source)
    add_lora(beside.network, LoraConfig(r=2))
    with pytest.raises(ConfigError, match="FusedLinear.*adapters.*--runtime torch"):
        OnnxRuntime(beside.network, 0)
    parts = make_classifier(made("bert").source)
    parts.network.config.is_decoder = True
    with pytest.raises(ConfigError, match="decoder.*--runtime torch"):
        OnnxRuntime(parts.network, 0)


def test_unknown_precision_is_refused(made: Callable[[str], Made]) -> None:
    with pytest.raises(ConfigError, match="--precision bf16.*fp32 and int8"):
        OnnxRuntime(made("bert").network, 0, precision="bf16")  # type: ignore[arg-type]


def test_over_two_gibibytes_is_refused(made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayclf.model.runtime.onnx_encoder._LIMIT", 1000)
    with pytest.raises(ConfigError, match="GiB.*--runtime torch"):
        OnnxRuntime(made("bert").network, 0)


def test_threads(made: Callable[[str], Made]) -> None:
    parts = made("bert")
    assert OnnxRuntime(parts.network, 0, threads=2).session.get_session_options().intra_op_num_threads == 2
    unset = OnnxRuntime(parts.network, 0).session.get_session_options().intra_op_num_threads
    assert unset == torch.get_num_threads()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_batches_side_by_side_give_what_one_after_the_other_does(
    made: Callable[[str], Made], precision: OnnxPrecision, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, rows = made("bert").network, some_rows(*range(17), *range(9), 16, 16)
    one = OnnxRuntime(network, 0, threads=1, precision=precision)
    several = OnnxRuntime(network, 0, threads=3, precision=precision)
    assert one.beside is None
    assert several.beside is not None
    assert several.beside.get_session_options().intra_op_num_threads == 1
    assert np.array_equal(several(rows), one(rows))
    several.session = one.session  # too few batches for the cores: all compute one of them
    assert np.array_equal(several(rows[5:6]), one(rows[5:6]))
    monkeypatch.setattr(onnx_module, "_MOST_TWICE", 0)  # a large model is in memory once
    assert OnnxRuntime(network, 0, threads=3, precision=precision).beside is None


@pytest.mark.parametrize("exact", [True, False])
def test_int8_is_close_and_keeps_the_labels(
    made: Callable[[str], Made], monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    monkeypatch.setattr(onnx_module, "_adds_exactly", lambda: exact)  # else weights have 7 bits
    parts = make_classifier(made("bert").source)
    train(parts, steps=20)
    rows = parts.encoding(TEXTS) * 3
    runtime = OnnxRuntime(parts.network, parts.info.pad_token_id, precision="int8")
    expected = TorchRuntime(parts.network, parts.info.pad_token_id)(rows)
    found = runtime(rows)
    assert runtime.precision == "int8"
    difference = np.abs(found - expected).max()
    assert 0 < difference < (0.05 if exact else 0.1) * np.ptp(expected)
    np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))


@pytest.mark.parametrize("name", sorted(ONNX_TYPES))
def test_int8_of_every_type(made: Callable[[str], Made], name: str) -> None:
    parts = made(name)
    rows = some_rows(*range(1, 40))
    found = OnnxRuntime(parts.network, parts.info.pad_token_id, precision="int8")(rows)
    expected = TorchRuntime(parts.network, parts.info.pad_token_id)(rows)
    assert np.abs(found - expected).mean() < 0.05 * expected.std()


def test_int8_of_a_row_does_not_depend_on_its_company(made: Callable[[str], Made]) -> None:
    """One scale for a whole batch would make it so: a row with a large activation would coarsen the others."""
    parts = made("bert")
    runtime = OnnxRuntime(parts.network, parts.info.pad_token_id, precision="int8")
    rows = some_rows(*[12] * 9)
    alone = np.concatenate([runtime([row]) for row in rows])
    np.testing.assert_allclose(runtime(rows), alone, atol=1e-5)


def test_only_int8_products_are_8_bit_and_the_head_never(made: Callable[[str], Made]) -> None:
    network = made("bert").network
    for int8, products, quantised in ((False, 0, 0), (True, 6 + 6, 4 + 5)):  # in the last layer the query reads less
        graph = onnx_module.build(network, int8=int8).graph
        kinds = [node.op_type for node in graph.node]
        assert kinds.count("MatMulIntegerToFloat") == products
        assert kinds.count("QuantizeLinear") == quantised
        assert kinds[-4:] == ["Gemm", "Tanh", "Gemm", "Identity"]


def test_nothing_is_left_in_the_users_cache_or_reported(tmp_path: Path) -> None:
    """ONNX Runtime's telemetry is on by default, and begins with the import."""
    told = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY" and not k.startswith("XDG_")}
    code = "from rayclf.model.runtime.onnx import _adds_exactly; _adds_exactly()"
    subprocess.run([sys.executable, "-c", code], check=True, env=told | {"HOME": str(tmp_path)})
    assert not list(tmp_path.rglob("*onnxruntime*"))
