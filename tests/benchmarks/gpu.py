"""Fine-tuning on one GPU: tokens/s, MFU, and peak memory beside what ``rayclf plan`` says.

    python tests/benchmarks/gpu.py [--steps 5] [--rows 128] [--sizes 4b,8b] [--both] [--minutes 7]

4 B- and 8 B-shaped backbones with random weights, LoRA and QLoRA (NF4), rows packed and padded; steps as the worker
does them, of texts of realistic lengths. Activations are computed again (gradient checkpointing) where the plan does
not fit otherwise; ``--both`` has each case both ways. The table at the end is for docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import os
import re
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayclf.training.cost.devices import Device

GIB = 2**30
LENGTH, BUDGET, WARMUP = 512, 8192, 2
METHODS = {"lora": "LoRA", "nf4": "QLoRA (NF4)"}
HEADER = """\
| backbone | method | rows | checkpointing | tokens/s | MFU | peak, GiB | plan, GiB | plan / peak |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


@dataclass(frozen=True)
class Case:
    """One line of the table; ``estimated`` and ``measured`` in bytes, without a rate a note says why there is none."""

    size: str
    tuning: str
    packed: bool
    checkpointing: bool
    estimated: int
    note: str = ""
    rate: float = 0.0
    mfu: float | None = None
    measured: int = 0

    def line(self) -> str:
        """The line in markdown."""
        kind = [f"{self.size[0]} B", METHODS[self.tuning], "packed" if self.packed else "padded"]
        kind.append("yes" if self.checkpointing else "no")
        found = [
            self.note or f"{self.rate:,.0f}",
            "" if self.mfu is None else f"{self.mfu:.1%}",
            f"{self.measured / GIB:.1f}" if self.measured else "",
            f"{self.estimated / GIB:.1f}",
            f"{self.estimated / self.measured:.2f}" if self.measured else "",
        ]
        return f"| {' | '.join([*kind, *found])} |"


def known_device(name: str, memory: int) -> Device | None:
    """The device of the planner's table that a driver's name means, such as "NVIDIA A100-SXM4-80GB"."""
    from rayclf.training.cost.devices import DEVICES

    words = re.sub(r"rtx (?=\d)", "rtx", name.lower().replace("-", " ")).split()
    found = [device for key, device in DEVICES.items() if key.partition("-")[0] in words]
    return min(found, key=lambda device: abs(device.memory - memory), default=None)


def cases(size: str, tuning: str, options: argparse.Namespace) -> Iterator[Case]:
    """What to measure of one network, and what does not fit; gradient checkpointing comes last, as it stays on."""
    import random_network as made

    from rayclf.training.cost.memory import estimate_memory

    fitted = False
    for checkpointing in (False, True):
        if fitted and not options.both:
            return
        memory = estimate_memory(
            made.plan_case(
                made.SIZES[size], tuning, rows=options.rows, length=LENGTH, tokens=BUDGET, checkpointing=checkpointing
            )
        )
        fits = memory.total <= made.free_memory()
        fitted |= fits
        for packed in (True, False):
            case = Case(size, tuning, packed, checkpointing, memory.total - memory.reserve)
            yield case if fits else replace(case, note="does not fit")


def measure_all(size: str, tuning: str, options: argparse.Namespace, peak: float | None, ends: float) -> Iterator[Case]:
    """The lines of one network, which is made once."""
    import random_network as made
    import torch

    from rayclf.config import TrainConfig
    from rayclf.model.checkpointing import enable_checkpointing
    from rayclf.training.strategies import Replicated

    base = allocated()
    strategy: Any = None
    checkpointing = False
    for case in list(cases(size, tuning, options)):
        if not case.note and time.monotonic() > ends:
            case = replace(case, note="no time left")
        if not case.note:
            try:
                if strategy is None:
                    network = made.random_network(made.SIZES[size], tuning)
                    strategy = Replicated(network, TrainConfig())
                if case.checkpointing and not checkpointing:
                    checkpointing = True
                    enable_checkpointing(strategy.network)
                case = measure(case, strategy, options, peak, base)
            except torch.OutOfMemoryError:
                case = replace(case, note="out of memory")
                if strategy is not None:
                    strategy.network.zero_grad(set_to_none=True)
        yield case


def measure(case: Case, strategy: Any, options: argparse.Namespace, peak: float | None, base: int) -> Case:
    """Medians over the steps after the warm-up; the same rows whatever the case."""
    import random_network as made
    import torch

    size, on_gpu = made.SIZES[case.size], made.DEVICE.type == "cuda"
    wait: Callable[[], Any] = torch.cuda.synchronize if on_gpu else lambda: None
    clear()
    rates = []
    for step in range(WARMUP + options.steps):
        batch = made.random_batch(size, made.text_lengths(options.rows, step, longest=LENGTH), step)
        wait()
        started = time.perf_counter()
        result = made.one_step(strategy, batch, BUDGET, packed=case.packed)
        wait()
        rates.append(result.tokens / (time.perf_counter() - started))
    rate = statistics.median(rates[WARMUP:])
    mfu = 4 * made.shape_of_size(size).active * rate / (1e12 * peak) if peak else None
    measured = torch.cuda.max_memory_allocated(made.DEVICE) - base if on_gpu else 0
    return replace(case, rate=rate, mfu=mfu, measured=measured)


def allocated() -> int:
    """Bytes on the GPU."""
    import torch

    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def clear() -> None:
    """Forget the peak so far, and give back what nothing holds."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def describe(name: str, options: argparse.Namespace, peak: float | None) -> str:
    """What stands above the table: command, date, hardware, versions and conventions."""
    import random_network as made
    import torch

    packages = ("torch", "transformers", "peft", "bitsandbytes")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    lengths = made.text_lengths(10_000, longest=LENGTH)
    sizes = ", ".join(
        f"{made.SIZES[size].name} ({made.SIZES[size].config['model_type']}) "
        f"{made.shape_of_size(made.SIZES[size]).active / 1e9:.2f} billion"
        for size in options.sizes.split(",")
    )
    rate = f"{peak:g} TFLOP/s dense bf16" if peak else "unknown here (--tflops)"
    command = " ".join(["python", "tests/benchmarks/gpu.py", *sys.argv[1:]])
    where = f"`{command}`, {datetime.now(UTC).date()}, {name}; {versions}, CUDA {torch.version.cuda}."
    how = (
        "Random weights in bf16, or NF4 with double quantisation; LoRA of rank 16 on all linear layers; steps of "
        f"{options.rows} rows as the worker does them, at most {BUDGET:,} tokens in one pass, texts of lognormal "
        f"lengths (median {statistics.median(lengths.tolist()):.0f} tokens, mean {lengths.mean():.0f}, at most {LENGTH}"
        f"). Medians of {options.steps} steps after {WARMUP}. Tokens are those of the texts, padding not counted. "
        f"MFU is 4 · N · tokens/s over the device's peak, {rate}: 2 FLOPs a weight and token forward, 2 backward, "
        f"since frozen weights have no gradient; N without the embedding table: {sizes}. Adapters, attention and "
        "activations computed again are not counted. Peak memory is what PyTorch allocated; the plan's is that of "
        f"`rayclf plan` without its reserve for CUDA itself, for texts that fill the {BUDGET:,} tokens."
    )
    return "\n\n".join(textwrap.fill(text, 120, break_on_hyphens=False) for text in (where, how)) + "\n"


def main() -> None:
    """Measure all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each case, after two of warm-up")
    parser.add_argument("--rows", type=int, default=128, help="rows of a step")
    parser.add_argument("--sizes", default="4b,8b", help="which backbones")
    parser.add_argument("--both", action="store_true", help="each case with and without gradient checkpointing")
    parser.add_argument("--minutes", type=float, default=7.0, help="no case starts later than this")
    parser.add_argument("--tflops", type=float, help="the device's dense bf16 peak, where the planner has no such")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    os.environ["HF_HUB_OFFLINE"] = "1"
    tests = Path(__file__).parents[1]
    sys.path[:0] = [str(tests), str(tests / "gpu")]
    import random_network as made
    import torch

    name, peak = "CPU, tiny shapes: the figures say nothing of a GPU", options.tflops
    if made.DEVICE.type == "cuda":
        if not torch.cuda.is_available():
            sys.exit("no CUDA device here")
        properties = torch.cuda.get_device_properties(made.DEVICE)
        name = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
        device = known_device(properties.name, properties.total_memory)
        peak = peak or (device.bf16 if device else None)
    lines = []
    for size in options.sizes.split(","):
        for tuning in METHODS:
            for case in measure_all(size, tuning, options, peak, ends):
                lines.append(case.line())
                print(lines[-1], flush=True)
            clear()  # the network has gone with its generator
    print("", describe(name, options, peak), HEADER, *lines, sep="\n")


if __name__ == "__main__":
    main()
