"""What a training step of an encoder costs on a CPU: processor time of steps made in different ways, by turns.

    taskset -c 0 python tests/benchmarks/step.py TRAIN [--max-length 256] [--steps 14] [--lora]

All ways take 32 rows a step, through the same loop, loss and fused AdamW, in one thread and one process:

- ``random``: as the Hugging Face Trainer makes a step by default, one padded batch of rows as they come, dropout 0.1;
- ``grouped``: the same over rows of like length (``group_by_length``);
- ``padded``: rows as they come, no dropout, padded micro-batches of rows of like length;
- ``packed``: one behind the other instead, and ``short``: of the last layer only the tokens that are pooled, too;
- ``rayclf``: besides, of the word embeddings only the rows that were read are updated, and a layer with its adapter is
  one operation;
- ``bf16``: the same in bfloat16, which rayclf chooses by itself where the CPU computes in it.

With ``--lora`` all of them train adapters of rank 16 on all layers and the head alone, with PEFT's layers but for those
of ``rayclf``.

Processor time and not the clock's, since it is what stays the same when other programs run beside it.
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import AutoTokenizer

from rayclf.config import LoraConfig, TrainConfig
from rayclf.data.rows import read_labelled
from rayclf.data.tokens import TokenBatch
from rayclf.labels import dense_targets
from rayclf.model.adapters import add_lora
from rayclf.model.backbone import load_network
from rayclf.model.backbone_files import fetch
from rayclf.model.engine import choose_precision
from rayclf.training.losses import TrainingLoss
from rayclf.training.step import micro_batches, train_step
from rayclf.training.strategies import Replicated

_ROWS, _WHOLE = 32, 10**6
# tokens of a micro-batch, packed, dropout, the last layer short, embeddings by rows, rows of like length
_WAYS: dict[str, tuple[int, bool, float, bool, bool, bool]] = {
    "random": (_WHOLE, False, 0.1, False, False, False),
    "grouped": (_WHOLE, False, 0.1, False, False, True),
    "padded": (512, False, 0.0, False, False, False),
    "packed": (2048, True, 0.0, False, False, False),
    "short": (2048, True, 0.0, True, False, False),
    "rayclf": (2048, True, 0.0, True, True, False),
    "bf16": (2048, True, 0.0, True, True, False),
}


def main() -> None:
    """Take the steps by turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=14)
    parser.add_argument("--lora", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = read_labelled(args.train)
    space, folder, config = found.space, fetch(None), TrainConfig()
    wanted = _ROWS * (args.steps + 2)  # two to warm up
    table = found.table.take(np.random.default_rng(0).permutation(found.table.num_rows)[:wanted])
    targets = dense_targets(table["positive"].combine_chunks(), table["unknown"].combine_chunks(), len(space))
    encoded = AutoTokenizer.from_pretrained(folder)(
        table["text"].to_pylist(), truncation=True, max_length=args.max_length
    )
    ids: list[Any] = [np.asarray(row, np.int32) for row in encoded["input_ids"]]
    alike = sorted(range(len(ids)), key=lambda place: len(ids[place]))
    mixed = np.random.default_rng(1).permutation(args.steps + 2)
    loss = TrainingLoss.on(torch.device("cpu"), space.problem_type, config, None)
    low = choose_precision("auto", torch.device("cpu")) == "bf16"
    ways = {name: way for name, way in _WAYS.items() if low or name != "bf16"}
    strategies = {}
    for name, (_, _, dropout, short, by_rows, _) in ways.items():
        dtype = torch.bfloat16 if args.lora and name == "bf16" else torch.float32  # of weights that are not trained
        network = load_network(folder, space, seed=0, dropout=dropout, dtype=dtype)
        if args.lora:
            with nullcontext() if by_rows else mock.patch("rayclf.model.fused_lora.speed_up"):
                add_lora(network, LoraConfig())
        network._short_last = network._short_last and short
        with nullcontext() if by_rows else mock.patch("rayclf.training.strategies.find_rows", return_value={}):
            strategies[name] = Replicated(network.train(), config)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(args.steps + 2):
        for name, (tokens, packed, _, _, _, grouped) in ways.items():
            first = _ROWS * (mixed[step] if grouped else step)
            rows = alike[first : first + _ROWS] if grouped else list(range(first, first + _ROWS))
            batch = TokenBatch(np.asarray(rows), [ids[row] for row in rows], targets[rows])
            began = time.process_time()
            micros = micro_batches(batch, tokens, 0, packed)
            rate, cpu = 1e-5, torch.device("cpu")
            train_step(strategies[name], micros, loss, learning_rate=rate, device=cpu, bf16=name == "bf16")
            seconds[name].append(time.process_time() - began)
    totals = {name: sum(times[2:]) for name, times in seconds.items()}
    print(f"{np.mean([len(row) for row in ids]):.1f} tokens a row")
    for name, total in totals.items():
        told = ", ".join(f"{totals[peer] / total:.2f} x {peer}" for peer in ("random", "grouped"))
        print(f"{name:8} {1000 * total / args.steps:7.0f} ms a step, rows a second {told}")


if __name__ == "__main__":
    main()
