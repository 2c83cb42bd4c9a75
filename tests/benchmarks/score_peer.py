"""A peer of scoring in an environment of its own: reads lists of texts as JSON lines, answers with times and scores.

    PYTHON tests/benchmarks/score_peer.py infinity|cross-encoder|pipeline MODEL THREADS

``infinity`` is Infinity's engine on PyTorch (``pip install "infinity-emb[server,torch]"``), float32 and not compiled.
``cross-encoder`` is sentence-transformers' ``CrossEncoder.predict``, which takes pairs alone: every text is cut in two
at a space, so that it reads one token more, and its probabilities are not compared. ``pipeline`` is
``transformers.pipeline``, batches of 32 as they come. Started by ``score.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable

os.environ |= {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
os.environ["OMP_NUM_THREADS"] = sys.argv[3]

import torch

LONGEST = 256
Scores = list[dict[str, float]]


def with_infinity(model: str) -> Callable[[list[str]], Scores]:
    from infinity_emb import AsyncEmbeddingEngine, EngineArgs

    settings = {"engine": "torch", "device": "cpu", "dtype": "float32", "compile": False, "bettertransformer": False}
    engine = AsyncEmbeddingEngine.from_args(EngineArgs(model_name_or_path=model, model_warmup=False, **settings))
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.astart())

    def run(texts: list[str]) -> Scores:
        found, _ = loop.run_until_complete(engine.classify(sentences=texts, raw_scores=False))
        return [{one["label"]: one["score"] for one in row} for row in found]

    return run


def with_cross_encoder(model: str) -> Callable[[list[str]], Scores]:
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(model, device="cpu", max_length=LONGEST)

    def run(texts: list[str]) -> Scores:
        cuts = [max(text.find(" ", len(text) // 2), len(text) // 2) for text in texts]
        pairs = [[text[:cut], text[cut:]] for text, cut in zip(texts, cuts, strict=True)]
        encoder.predict(pairs, batch_size=32, apply_softmax=True, show_progress_bar=False)
        return []

    return run


def with_pipeline(model: str) -> Callable[[list[str]], Scores]:
    from transformers import pipeline

    pipe = pipeline("text-classification", model=model, top_k=None, device="cpu")

    def run(texts: list[str]) -> Scores:
        found = pipe(texts, batch_size=32, truncation=True, max_length=LONGEST)
        return [{one["label"]: one["score"] for one in row} for row in found]

    return run


def main() -> None:
    """Answer each line of texts with the seconds it took, on the clock and on the processor, and the scores."""
    kind, model, threads = sys.argv[1:4]
    torch.set_num_threads(int(threads))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print does not mix with the answers
    run = {"infinity": with_infinity, "cross-encoder": with_cross_encoder, "pipeline": with_pipeline}[kind](model)
    for line in sys.stdin:
        texts = json.loads(line)
        wall, cpu = time.perf_counter(), time.process_time()
        scores = run(texts)
        answer = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "scores": scores}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
