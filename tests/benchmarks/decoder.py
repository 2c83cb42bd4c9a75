"""A decoder of 135 M parameters on one thread: the engine against a length-sorted loop over Transformers.

    OMP_NUM_THREADS=1 taskset -c 0 python tests/benchmarks/decoder.py [--rows 192] [--pairs 3] [--max-tokens N]

SmolLM-135M's shape with random float32 weights, the same for both; rows of random tokens as long as AG News texts, then
the same behind a constant prompt of 40 tokens. Both compute all rows by turns; the ratio is the median over the pairs.
The last column is the greatest difference in logits.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedModel

from rayclf.data.tokens import Ids
from rayclf.labels import Floats
from rayclf.model.network import Network
from rayclf.model.packing import pad_batch
from rayclf.model.runtime.pytorch import TorchRuntime

PAD, BATCH, PROMPT = 0, 32, 40


def make_model() -> PreTrainedModel:
    """The shape of SmolLM-135M with four labels."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        pad_token_id=PAD,
        num_labels=4,
    )
    model: PreTrainedModel = LlamaForSequenceClassification(config).eval()
    return model


def make_rows(count: int, seed: int = 0) -> list[Ids]:
    """Rows of 20 to 120 random tokens."""
    generator = np.random.default_rng(seed)
    return [generator.integers(1, 49152, generator.integers(20, 121)).astype(np.int32) for _ in range(count)]


def sorted_loop(model: Any, rows: list[Ids]) -> Floats:
    """What a careful user writes: rows sorted by length, padded, 32 at a time."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    result = np.empty((len(rows), 4), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            input_ids, mask = pad_batch([rows[i] for i in batch], PAD)
            result[batch] = model(input_ids=input_ids, attention_mask=mask).logits.numpy()
    return result


def main() -> None:
    """Print a table in markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=None)
    arguments = parser.parse_args()
    model = make_model()
    runtime = TorchRuntime(Network(copy.deepcopy(model)), PAD, max_tokens=arguments.max_tokens)
    rows = make_rows(arguments.rows)
    prompt = np.random.default_rng(1).integers(1, 49152, PROMPT).astype(np.int32)
    print(f"{torch.get_num_threads()} thread(s), {runtime.max_tokens} tokens a batch\n")
    print("| rows | loop, tokens/s | engine, tokens/s | ratio | logits differ by |\n| --- | --- | --- | --- | --- |")
    for name, given in (("texts", rows), ("prompt and texts", [np.concatenate([prompt, row]) for row in rows])):
        tokens = sum(map(len, given))
        sorted_loop(model, given[:BATCH])
        runtime(given[:BATCH])
        times = list[tuple[float, float]]()
        for _ in range(arguments.pairs):
            start = time.perf_counter()
            expected = sorted_loop(model, given)
            middle = time.perf_counter()
            got = runtime(given)
            times.append((middle - start, time.perf_counter() - middle))
        rates = [tokens / statistics.median(kind) for kind in zip(*times, strict=True)]
        ratio = statistics.median(theirs / ours for theirs, ours in times)
        print(
            f"| {name} | {rates[0]:.0f} | {rates[1]:.0f} | {ratio:.2f} | {np.abs(expected - got).max():.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
