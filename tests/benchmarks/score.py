"""Offline scoring against ``transformers.pipeline(batch_size=32)`` in float32: the same weights and rows.

    python tests/benchmarks/score.py ARTIFACT ROWS.csv [--pairs 3]

The peer has the exported classifier and as many threads as there are cores; rayclf runs its whole Ray pipeline, from
the input file to Parquet files with commit records. In turn, median of the pairs. Ray's start and the loading of the
model are not counted on either side. Also prints the largest difference between the probabilities.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import pipeline

import rayclf
from rayclf.cluster import cores
from rayclf.data.columns import find_text
from rayclf.data.formats import read_table
from rayclf.model.info import find_artifact, read_info


def main() -> None:
    """Run the pairs and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact")
    parser.add_argument("rows")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=None)
    args = parser.parse_args()
    info = read_info(find_artifact(args.artifact))
    table = read_table(args.rows)
    known = info.reads.text in table.column_names
    text = info.reads.text if known else find_text(table, args.rows)
    texts = table[text].to_pylist()
    names = info.space.names
    torch.set_num_threads(cores())
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        exported = rayclf.export(args.artifact, Path(folder) / "exported")
        peer = pipeline("text-classification", model=str(exported), top_k=None, device="cpu")
        for pair in range(args.pairs):
            started = time.perf_counter()
            answers = list(peer(texts, batch_size=32, truncation=True, max_length=info.max_length))
            peer_rate = len(texts) / (time.perf_counter() - started)
            out = Path(folder) / f"scored-{pair}"
            summary = rayclf.score(args.artifact, args.rows, out, text=text, precision="fp32", replicas=args.replicas)
            ratios.append(summary.rows_per_second / peer_rate)
            print(f"pair {pair + 1}: peer {peer_rate:.1f} rows/s, ours {summary.rows_per_second:.1f}", flush=True)
        scored = pa.concat_tables(pq.read_table(file) for file in sorted(out.glob("part-*.parquet")))
    expected = np.asarray([[{a["label"]: a["score"] for a in answer}[name] for name in names] for answer in answers])
    difference = np.abs(np.asarray(scored["probabilities"].to_pylist()) - expected).max()
    print(f"{len(texts)} rows; median ratio {statistics.median(ratios):.2f}; largest difference {difference:.1e}")


if __name__ == "__main__":
    main()
