"""100 classifiers on one backbone, drawn by Zipf, against one: rows a second on one CPU thread.

    OMP_NUM_THREADS=1 taskset -c 1 python tests/benchmarks/adapters.py [--adapters 100] [--rows 300] [--pairs 5]

A random Llama of 14 M parameters, LoRA of rank 8 on all its linear layers, rows of 20 to 120 random tokens, batches of
1,024 tokens. All kinds take the same rows through the same batcher, 64 clients at once, by turns; ratios are medians
over the pairs. Seconds are the process's CPU time, so that what else runs on the machine does not count.

"one adapter" asks one of the classifiers alone. "merged" is it by Classifier.load, its adapter in its weights.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from artifacts import write_many
from tiny import make_classifier, write_backbone

from rayclf.config import LoraConfig
from rayclf.data.tokens import Ids
from rayclf.model.engine import Classifier
from rayclf.model.multi_adapter import AdapterBackbone, forward_mixed
from rayclf.serving.batching import Batcher

CLIENTS, MAX_TOKENS = 64, 1024
SIZES = {
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 256,
    "initializer_range": 0.02,
}


async def ask_all(rows: Sequence[Ids], classifiers: Sequence[Classifier]) -> int:
    """Send each row to its classifier, so many at once; the number of batches that were computed."""
    batcher = Batcher(forward_mixed, max_tokens=MAX_TOKENS, max_wait_s=float("inf"))
    todo = iter(zip(rows, classifiers, strict=True))

    async def client() -> None:
        for row, classifier in todo:
            await batcher.submit([row], classifier)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    await batcher.close()
    return batcher.counters.batches


def main() -> None:
    """Print a table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=100)
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--zipf", type=float, default=1.0)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    rows = [generator.integers(1, 8192, n).astype(np.int32) for n in generator.integers(20, 121, arguments.rows)]
    chances = 1 / np.arange(1, arguments.adapters + 1) ** arguments.zipf
    drawn = generator.choice(arguments.adapters, arguments.rows, p=chances / chances.sum()).tolist()
    with tempfile.TemporaryDirectory() as place:
        source = write_backbone(Path(place) / "backbone", "llama", **SIZES)
        made = make_classifier(source, tuning="lora", lora=LoraConfig(r=8, alpha=16))
        folders = write_many(made, arguments.adapters, Path(place) / "artifacts")
        begin = time.process_time()
        backbone = AdapterBackbone.load(folders[0], max_tokens=MAX_TOKENS)
        middle = time.process_time()
        shared = [backbone.classifier(folder) for folder in folders]
        each = (time.process_time() - middle) / len(folders)
        merged = Classifier.load(folders[0], max_tokens=MAX_TOKENS)
        size = shared[0].runtime.adapter.nbytes  # type: ignore[attr-defined]
    kinds = {
        "merged": [merged] * len(rows),
        "one adapter": [shared[0]] * len(rows),
        f"{arguments.adapters} adapters, Zipf": [shared[i] for i in drawn],
        f"{arguments.adapters} adapters, evenly": [shared[i % len(shared)] for i in range(len(rows))],
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    batches = dict.fromkeys(kinds, 0)
    for classifiers in kinds.values():
        asyncio.run(ask_all(rows[:40], classifiers[:40]))
    for _ in range(arguments.pairs):
        for name, classifiers in kinds.items():
            start = time.process_time()
            batches[name] = asyncio.run(ask_all(rows, classifiers))
            times[name].append(time.process_time() - start)
    print(f"backbone {backbone.nbytes / 2**20:.0f} MiB in {middle - begin:.2f} s; an adapter {size / 2**20:.2f} MiB in")
    print(f"{1000 * each:.0f} ms; {len(set(drawn))} of {arguments.adapters} drawn; CPU seconds of {len(rows)} rows\n")
    print("| classifiers | rows/s | batches | rate / one adapter | rate / merged |\n| --- | --- | --- | --- | --- |")
    for name, own in times.items():
        ratios = [
            statistics.median(other / mine for other, mine in zip(times[base], own, strict=True))
            for base in ("one adapter", "merged")
        ]
        rate = len(rows) / statistics.median(own)
        print(f"| {name} | {rate:.1f} | {batches[name]} | {ratios[0]:.2f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    main()
