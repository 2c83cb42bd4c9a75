"""Estimated beside measured peak memory: ``python tests/benchmarks/memory.py [--small]``; on CUDA with large cases.

Each case trains two real steps of a random backbone. On a CPU the peak is that of the resident set less what there was
before loading, with an allocator that gives freed memory back; on CUDA it is what PyTorch allocated.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from rayclf.config import Config

GIB = 2**30


@dataclass(frozen=True)
class Trial:
    """One training to measure."""

    name: str
    model: str
    fields: dict[str, int]
    method: str
    precision: str
    tokens: int
    length: int
    checkpointing: bool = False
    dora: bool = False


_16M = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6,
        "num_key_value_heads": 3, "vocab_size": 16000}  # fmt: skip
_30M = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
        "vocab_size": 8000}  # fmt: skip
_60M = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12,
        "vocab_size": 8000}  # fmt: skip
_4B = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
       "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}  # fmt: skip
# On a CPU the words that no text has take no memory in full tuning, which the estimate does not know.
_FEW_WORDS = {"vocab_size": 1000}
SMALL = (
    Trial("full", "llama", _16M | _FEW_WORDS, "full", "fp32", 512, 128),
    Trial("full, checkpointing", "llama", _16M | _FEW_WORDS, "full", "fp32", 512, 128, checkpointing=True),
    Trial("lora", "llama", _16M, "lora", "fp32", 1024, 128),
    Trial("lora, checkpointing", "llama", _16M, "lora", "fp32", 1024, 128, checkpointing=True),
)
LARGE = (
    *SMALL,
    Trial("full, bf16", "llama", _30M | _FEW_WORDS, "full", "bf16", 1024, 128),
    Trial("lora, bf16", "llama", _60M, "lora", "bf16", 1024, 128),
    Trial("dora", "llama", _30M, "lora", "fp32", 1024, 128, dora=True),
    Trial("encoder, full", "bert", _60M | _FEW_WORDS, "full", "fp32", 1024, 128),
    Trial("encoder, lora", "modernbert", _30M, "lora", "fp32", 1024, 128),
)
CUDA = (
    Trial("encoder, full, bf16", "bert", _60M, "full", "bf16", 8192, 256),
    Trial("4 B, lora, bf16", "qwen3", _4B, "lora", "bf16", 2048, 256),
    Trial("4 B, lora, checkpointing", "qwen3", _4B, "lora", "bf16", 8192, 256, checkpointing=True),
    Trial("4 B, full, bf16", "qwen3", _4B, "full", "bf16", 2048, 256),
)


def measure(trials: Sequence[Trial], device: str) -> list[tuple[int, int]]:
    """Estimated and measured bytes of each trial, without the reserve, in a process apart."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
    }  # fmt: skip
    command = [sys.executable, __file__, "--trials", json.dumps([asdict(trial) for trial in trials])]
    told = subprocess.run([*command, "--device", device], env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return [(estimated, measured) for estimated, measured in json.loads(told.stdout.splitlines()[-1])]


def _one(trial: Trial, device: str) -> tuple[int, int]:
    import torch

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tiny import tiny_config
    from transformers import AutoModel

    from rayclf.config import Config, LoraConfig, ModelConfig, TrainConfig
    from rayclf.training.cost.memory import Case, estimate_memory
    from rayclf.training.cost.parameters import read_shape

    lora = LoraConfig(dora=trial.dora)
    dtype = torch.bfloat16 if trial.precision == "bf16" and trial.method == "lora" else torch.float32
    train = TrainConfig(
        batch_size=2 * trial.tokens // trial.length,
        micro_batch_tokens=trial.tokens,
        gradient_checkpointing=trial.checkpointing,
        strategy="single",
    )
    config = Config(model=ModelConfig(method=trial.method, max_length=trial.length, lora=lora), train=train)
    with tempfile.TemporaryDirectory() as name:
        for place, fields in (("tiny", {}), ("whole", trial.fields)):
            made = tiny_config(trial.model, max_position_embeddings=trial.length + 8, **fields)
            AutoModel.from_config(made).to(dtype).save_pretrained(Path(name) / place)
        _train(trial, config, Path(name) / "tiny", device, dtype)  # what the libraries take once
        gc.collect()
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            base = torch.cuda.memory_allocated()
        else:
            base = _status("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        _train(trial, config, Path(name) / "whole", device, dtype)
        measured = torch.cuda.max_memory_allocated() if device == "cuda" else _status("VmHWM")
        shape = read_shape(Path(name) / "whole", 3, lora if trial.method == "lora" else None)
    found = estimate_memory(Case(config, shape, 3, 1, trial.precision, device == "cpu"))
    return found.total - found.reserve, measured - base


def _train(trial: Trial, config: Config, folder: Path, device: str, dtype: torch.dtype) -> None:
    """Two steps of two micro-batches each, as the worker does them."""
    import torch
    from tiny import SPACES, add_lora, load_network

    from rayclf.labels import ProblemType
    from rayclf.training.strategies import Replicated

    network = load_network(folder, SPACES[ProblemType.MULTICLASS], dtype=dtype, seed=1, dropout=0.0)
    if trial.method == "lora":
        add_lora(network, config.model.lora)
    network.to(device).train()
    sum(float(p.detach().sum()) for p in network.parameters())  # what is mapped from a file counts once it is read
    if trial.checkpointing:
        base = network.backbone.get_base_model() if trial.method == "lora" else network.backbone
        base.gradient_checkpointing_enable({"use_reentrant": False})
    strategy = Replicated(network, config.train)
    for _ in range(2):
        for last in (False, True):
            ids = torch.randint(5, 300, (trial.tokens // trial.length, trial.length), device=device)
            with torch.autocast(device, torch.bfloat16, enabled=trial.precision == "bf16"):
                logits = network(ids, torch.ones_like(ids))
            strategy.backward(torch.nn.functional.cross_entropy(logits, ids[:, 0] % 3), last)
        strategy.update(1e-4)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Print a table of cases, or measure some for :func:`measure`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--device")
    parser.add_argument("--trials")
    options = parser.parse_args()
    if options.trials:
        print(json.dumps([_one(Trial(**trial), options.device) for trial in json.loads(options.trials)]))
        return
    import torch

    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{device:30} {'estimate':>10} {'measured':>10}  ratio")
    for trial in SMALL if options.small else CUDA if device == "cuda" else LARGE:
        ((estimated, measured),) = measure([trial], device)
        sizes = f"{estimated / GIB:8.3f} G {measured / GIB:8.3f} G"
        print(f"{trial.name:30} {sizes}  {estimated / measured:.2f}", flush=True)


if __name__ == "__main__":
    main()
