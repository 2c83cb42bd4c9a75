"""Save, reload and merge on CUDA: the parity law of bf16, the same argmax on at least 99.9 % of rows.

The classifier is trained first, on rows whose last token tells the label: of a random one the logits lie so close
together that rounding decides between them, which says nothing about a real one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from random_network import DEVICE, SIZES, SPACE, Size, one_step, random_batch, settle, short, text_lengths
from tiny import Made, decoder_tokenizer
from transformers import AutoConfig, AutoModel

from rayclf.config import LoraConfig, ModelConfig, TrainConfig
from rayclf.data.texts import TextSource
from rayclf.labels import Floats
from rayclf.model.adapters import add_lora
from rayclf.model.backbone import load_network
from rayclf.model.backbone_files import weight_hashes
from rayclf.model.engine import Classifier
from rayclf.model.info import ArtifactInfo, BackboneRef
from rayclf.model.tokenizer import load_tokenizer, text_encoding
from rayclf.training.strategies import Replicated

pytestmark = pytest.mark.filterwarnings("default")  # drivers and kernels warn of what is not ours to mend

ROWS, LONGEST = 2000, 128


def write_files(size: Size, folder: Path) -> Path:
    """The size with random bf16 weights, made on the device and written once, and a tokenizer."""
    size.write(folder)
    torch.manual_seed(0)
    with DEVICE:
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    settle(model)
    model.save_pretrained(folder)
    decoder_tokenizer().save_pretrained(folder)
    return folder


def trained_classifier(size: Size, source: Path, quantised: bool) -> Made:
    """LoRA or QLoRA in bf16 after some real steps, in the parts that the worker has."""
    network = load_network(
        source,
        SPACE,
        dtype=torch.bfloat16,
        dropout=0.0,
        quantization="nf4" if quantised else None,
        compute_dtype=torch.bfloat16,
        device=DEVICE,
    )
    add_lora(network, LoraConfig())
    strategy = Replicated(network.to(DEVICE).train(), TrainConfig())
    rate = 0.4 / int(size.config["hidden_size"])  # Adam moves every weight by it: the logits by up to 0.4 a step
    for step in range(200):
        batch = random_batch(size, text_lengths(48, step, longest=LONGEST), step)
        if one_step(strategy, batch, 8192, packed=True, learning_rate=rate).loss < 0.01:
            break
    network.eval()
    tokenizer = load_tokenizer(source)
    encoding = text_encoding(tokenizer, network.config, ModelConfig(max_length=LONGEST))
    info = ArtifactInfo(
        label_space=SPACE.to_json(),
        tuning="lora",
        quantization="nf4" if quantised else None,
        pooling=network.layout.pooling,
        template="{text}",
        max_length=encoding.max_length,
        pad_token_id=tokenizer.pad_token_id,
        thresholds=[0.5] * len(SPACE),
        reads=TextSource(text="text"),
        backbone=BackboneRef(
            id=str(source), revision=None, model_type=network.config.model_type, sha256=weight_hashes(source)
        ),
    )
    return Made(source, network, tokenizer, encoding, info)


@dataclass(frozen=True)
class Saved:
    """An artifact, unseen rows, and the logits that the live network gave them in bf16."""

    folder: Path
    rows: list[np.ndarray]  # type: ignore[type-arg]
    live: Floats


@pytest.fixture(scope="module", params=["lora", "nf4"])
def tuning(request: pytest.FixtureRequest) -> str:
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
    return str(request.param)


@pytest.fixture(scope="module", params=list(SIZES))
def saved(request: pytest.FixtureRequest, tuning: str, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    size = short(SIZES[request.param], 8, vocab_size=320, max_position_embeddings=512)
    folder = tmp_path_factory.mktemp("artifact")
    made = trained_classifier(size, write_files(size, folder / "backbone"), tuning == "nf4")
    batch = random_batch(size, text_lengths(ROWS, 99, longest=LONGEST), 99)
    live = made.with_runtime(precision="bf16").forward(batch.input_ids)
    right = live.argmax(axis=1) == batch.targets.argmax(axis=1)
    assert right.mean() > 0.99, "it did not learn, so that its argmax means nothing"
    made.save(folder / "artifact")
    return Saved(folder / "artifact", batch.input_ids, live)


def reload(saved: Saved, precision: str, batching: str = "auto") -> tuple[Floats, Classifier]:
    classifier = Classifier.load(saved.folder, device=str(DEVICE), precision=precision, batching=batching)  # type: ignore[arg-type]
    return classifier.forward(saved.rows), classifier


def check_parity(logits: Floats, wanted: Floats, tolerance: float) -> None:
    """The largest difference between probabilities, and the share of equal answers."""
    difference = np.abs(SPACE.probabilities(logits) - SPACE.probabilities(wanted))
    same = (logits.argmax(axis=1) == wanted.argmax(axis=1)).mean()
    assert same >= 0.999, f"the same argmax on {same:.2%} of rows"
    # A row in ten thousand may lie just where the answer turns.
    assert np.quantile(difference, 0.999) <= tolerance, f"probabilities differ by {difference.max():.3f}"


def test_reloaded_in_bf16_it_is_the_same(saved: Saved) -> None:
    logits, classifier = reload(saved, "bf16")
    assert {p.dtype for p in classifier.runtime.network.backbone.parameters() if p.ndim > 1} == {
        torch.bfloat16,
        torch.float32,
    }
    check_parity(logits, saved.live, 0.02)


def test_padded_it_is_the_same(saved: Saved) -> None:
    packed, _ = reload(saved, "bf16", "packed")
    padded, _ = reload(saved, "bf16", "padded")
    check_parity(packed, padded, 0.05)


def test_merged_into_float32_it_is_the_same(saved: Saved) -> None:
    logits, classifier = reload(saved, "fp32")
    assert not any("lora_" in name for name, _ in classifier.runtime.network.named_parameters())
    assert {p.dtype for p in classifier.runtime.network.parameters()} == {torch.float32}
    check_parity(logits, saved.live, 0.05)
