"""Random backbones of real sizes, made where they compute: their weights are neither written, read nor sent.

``RAYCLF_GPU_TESTS=cpu`` runs the checks of this folder on a CPU with the same architectures in tiny, which proves the
checks and not the GPU: what is asserted of its kernels and its memory is left out.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import torch
from tiny import SPACES
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from rayclf.config import Config, LoraConfig, ModelConfig, TrainConfig
from rayclf.data.tokens import Ids, TokenBatch
from rayclf.labels import ProblemType
from rayclf.model import backbone as backbone_module
from rayclf.model.adapters import add_lora
from rayclf.model.backbone import load_network
from rayclf.model.network import Network
from rayclf.training.cost.memory import Case
from rayclf.training.cost.parameters import Shape, read_shape
from rayclf.training.losses import TrainingLoss
from rayclf.training.step import StepResult, micro_batches, train_step
from rayclf.training.strategies import Strategy

ON_CPU = os.environ.get("RAYCLF_GPU_TESTS") == "cpu"
DEVICE = torch.device("cpu") if ON_CPU else torch.device("cuda", 0)
SPACE = SPACES[ProblemType.MULTICLASS]
PAD = 0
MARKERS = (5, 6, 7)  # a row's last token is that of its label, so that a few steps learn it
Tuning = Literal["full", "lora", "nf4", "int8"]


@dataclass(frozen=True)
class Size:
    """An architecture: the fields of its ``config.json``."""

    name: str
    config: Mapping[str, Any]

    def with_fields(self, **fields: Any) -> Size:
        """The same with other fields."""
        return replace(self, config={**self.config, **fields})

    @property
    def layers(self) -> int:
        """Its number of layers."""
        return int(self.config["num_hidden_layers"])

    def write(self, folder: Path) -> Path:
        """The folder with its ``config.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(dict(self.config)))
        return folder


_TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
         "intermediate_size": 128, "vocab_size": 320, "initializer_range": 0.2}  # fmt: skip


def _size(name: str, **fields: Any) -> Size:
    common = {"max_position_embeddings": 8192, "bos_token_id": 0, "eos_token_id": 0}
    return Size(name, fields | common | (_TINY if ON_CPU else {}))


B8 = _size("8 B", model_type="llama", hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
           num_key_value_heads=8, intermediate_size=14336, vocab_size=128256)  # fmt: skip
B4 = _size("4 B", model_type="qwen3", hidden_size=2560, num_hidden_layers=36, num_attention_heads=32,
           num_key_value_heads=8, head_dim=128, intermediate_size=9728, vocab_size=151936)  # fmt: skip
SIZES = {"8b": B8, "4b": B4}


def short(size: Size, layers: int = 8, **fields: Any) -> Size:
    """A size with few layers."""
    return size.with_fields(num_hidden_layers=min(layers, size.layers), **fields)


def random_network(size: Size, tuning: Tuning, *, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> Network:
    """What the worker trains, by its own :func:`load_network`, whose files are replaced by random weights.

    ``nf4`` and ``int8`` are QLoRA. With adapters the backbone is of ``dtype``; full tuning is float32.
    """
    quantization = tuning if tuning in ("nf4", "int8") else None
    dtype = torch.float32 if tuning == "full" else dtype

    def make(folder: Path, *, config: Any, dtype: Any, **_: Any) -> tuple[Any, dict[str, list[str]]]:
        with DEVICE:
            model = AutoModelForSequenceClassification.from_config(
                config, dtype=torch.bfloat16 if dtype == "auto" else dtype
            )
        settle(model)
        return model, {"missing_keys": [], "mismatched_keys": []}

    patched = mock.patch.object(backbone_module.AutoModelForSequenceClassification, "from_pretrained", make)
    with tempfile.TemporaryDirectory() as folder, patched:
        network = load_network(
            size.write(Path(folder)),
            SPACE,
            dtype=dtype,
            seed=seed,
            dropout=0.0,
            quantization=quantization,  # type: ignore[arg-type]
            compute_dtype=dtype,
            device=DEVICE,
        )
    if tuning != "full":
        add_lora(network, LoraConfig())
    return network.to(DEVICE).train()


def settle(model: PreTrainedModel) -> None:
    """Scale random weights as trained ones are: embeddings of unit size, and what L layers add to them by 1/sqrt(2 L)
    (GPT-2, section 2.3). Otherwise the first layers drown the tokens, and all rows look alike."""
    config = model.config
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_tokens" in name:
                parameter.div_(config.initializer_range)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.mul_((2 * config.num_hidden_layers) ** -0.5)


def move_trained(network: Network, scale: float = 0.02, seed: int = 1) -> None:
    """Move what is trained from its start: a fresh adapter adds nothing, and half of it gets no gradient."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn_like(parameter))


def random_batch(size: Size, lengths: Sequence[int] | np.ndarray[Any, Any], seed: int = 0) -> TokenBatch:
    """Rows of random tokens; row i is of label i modulo 3, and ends in that label's marker."""
    draw = np.random.default_rng(seed)
    vocabulary = int(size.config["vocab_size"])
    rows: list[Ids] = [draw.integers(10, vocabulary, max(1, int(n))).astype(np.int32) for n in lengths]
    for number, row in enumerate(rows):
        row[-1] = MARKERS[number % len(MARKERS)]
    targets = np.eye(len(SPACE), dtype=np.float32)[np.arange(len(rows)) % len(SPACE)]
    return TokenBatch(np.arange(len(rows)), rows, targets)


def text_lengths(count: int, seed: int = 0, *, median: float = 60, longest: int = 512) -> np.ndarray[Any, Any]:
    """Tokens of ``count`` texts as they are found: lognormal, most short and a few long, cut at ``longest``."""
    drawn = np.random.default_rng(seed).lognormal(np.log(median), 0.8, count)
    return np.clip(drawn, 4, longest).astype(np.int64)


def one_step(strategy: Strategy, batch: TokenBatch, tokens: int, *, packed: bool, **settings: Any) -> StepResult:
    """A step as the worker does it, in bf16 unless said otherwise."""
    options = {"learning_rate": 1e-4, "bf16": True, "device": DEVICE} | settings
    micros = micro_batches(batch, tokens, PAD, packed)
    return train_step(strategy, micros, TrainingLoss(SPACE.problem_type, TrainConfig()), **options)


@cache
def _shape(config: str) -> Shape:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(config)
        return read_shape(Path(folder), len(SPACE), LoraConfig())


def shape_of_size(size: Size) -> Shape:
    """What the planner knows of a size."""
    return _shape(json.dumps(dict(size.config), sort_keys=True))


def plan_case(size: Size, tuning: Tuning, *, rows: int, length: int, tokens: int, checkpointing: bool = False) -> Case:
    """The planner's case: steps of ``rows`` texts of up to ``length`` tokens, ``tokens`` at a time, on one GPU."""
    quantised = {"method": "qlora", "quantization": tuning} if tuning in ("nf4", "int8") else {"method": tuning}
    train = TrainConfig(
        batch_size=rows, micro_batch_tokens=tokens, gradient_checkpointing=checkpointing, strategy="single"
    )
    config = Config(model=ModelConfig.model_validate({**quantised, "max_length": length}), train=train)
    return Case(config, shape_of_size(size), len(SPACE), 1, "bf16", ON_CPU)


def free_memory() -> int:
    """Bytes that this process may take of the device, what it has included."""
    if ON_CPU:
        return 2**40
    return torch.cuda.mem_get_info(DEVICE)[0] + torch.cuda.memory_reserved(DEVICE)
