"""Reading labelled files to tokenized batches: rayclf against plain Ray Data with the same tokenizer, and memory.

    python tests/benchmarks/data.py rates  [--rows 40000] [--rounds 3]
    python tests/benchmarks/data.py memory [--rows 60000] [--times 20] [--words 24]
    python tests/benchmarks/data.py prepare FILE [--labels FILE]

``rates`` writes the same rows as 8 Parquet and 8 JSONL files and reads them by turns; the figure is the ratio of the
medians. ``memory`` compares the peak of all processes together (PSS) over one and over ``times`` as many rows, each in
a process tree of its own. ``prepare`` tells the time and peak of ``rayclf data prepare``.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from peak import peak_of

FILES = 8
WORDS = tuple("ray data model label text train token batch class score file cloud shard graph tensor head".split())  # noqa: SIM905


def write_rows(folder: Path, rows: int, words: int = 120) -> dict[str, Path]:
    """``rows`` rows of a sixth of ``words`` to ``words`` words, in 8 files of each format."""
    chance = random.Random(1)
    for form in ("parquet", "jsonl"):
        (folder / form).mkdir(parents=True)
    for file in range(FILES):
        count = rows // FILES
        texts = [
            " ".join(chance.choices(WORDS, k=chance.randint(words // 6, words))) + f" {file} {i}" for i in range(count)
        ]
        labels = [f"label {chance.randrange(10)}" for _ in range(count)]
        pq.write_table(pa.table({"text": texts, "label": labels}), folder / "parquet" / f"{file}.parquet")
        lines = (json.dumps({"text": t, "label": k}) + "\n" for t, k in zip(texts, labels, strict=True))
        (folder / "jsonl" / f"{file}.jsonl").write_text("".join(lines))
    return {form: folder / form for form in ("parquet", "jsonl")}


def encoding():
    """The default backbone's tokenizer."""
    from rayclf.config import Config
    from rayclf.model.backbone import describe, load_tokenizer, text_encoding
    from rayclf.model.backbone_files import fetch

    source = fetch(None, None)
    return text_encoding(load_tokenizer(source), describe(source).config, Config().model)


def ours(place: Path, how) -> int:
    """Files → checked canonical text → tokens, through rayclf."""
    from rayclf.config import DataConfig
    from rayclf.data.parallel import read_stream
    from rayclf.data.sources import find_sources
    from rayclf.data.survey import plan_extract
    from rayclf.data.tokens import tokenize_rows

    sources = find_sources(place)
    dataset = read_stream(sources, plan_extract(sources, DataConfig()))
    dataset = dataset.map_batches(tokenize_rows, batch_size=1024, batch_format="pyarrow", fn_kwargs={"encoding": how})
    return sum(batch.num_rows for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"))


def plain(place: Path, how) -> int:
    """Files → tokens, as a user of Ray Data would write it."""
    import ray

    read = ray.data.read_parquet if place.name == "parquet" else ray.data.read_json

    def tokenize(batch: pa.Table) -> pa.Table:
        from rayclf.data.tokens import _tokenizer  # the same tokenizer, made once a process

        tokenizer = _tokenizer(how.tokenizer_json, how.max_length)
        encoded = tokenizer.encode_batch_fast(batch["text"].to_pylist())
        return pa.table({"label": batch["label"], "input_ids": [e.ids for e in encoded]})

    dataset = read(str(place)).map_batches(tokenize, batch_size=1024, batch_format="pyarrow")
    return sum(batch.num_rows for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"))


def rates(rows: int, rounds: int) -> None:
    """Print the ratio of rates, by format."""
    from rayclf.cluster import connect

    connect()
    how = encoding()
    with tempfile.TemporaryDirectory() as folder:
        for form, place in write_rows(Path(folder), rows).items():
            seconds: dict[str, list[float]] = {"ours": [], "plain": []}
            for turn in range(rounds + 1):
                for name, read in (("ours", ours), ("plain", plain)):
                    began = time.perf_counter()
                    assert read(place, how) == rows // FILES * FILES
                    if turn:  # the first warms up
                        seconds[name].append(time.perf_counter() - began)
            median = {name: statistics.median(times) for name, times in seconds.items()}
            print(
                f"{form}: ours {rows / median['ours']:.0f} rows/s, plain {rows / median['plain']:.0f} rows/s, "
                f"ratio {median['plain'] / median['ours']:.2f}",
                flush=True,
            )


def memory(rows: int, times: int, words: int) -> None:
    """Print the peak of reading ``times`` as many rows over that of ``rows``."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for scale in (1, times):
            places = write_rows(Path(folder) / str(scale), rows * scale, words)
            for form, place in places.items():
                seconds, peaks[form, scale] = peak_of([sys.executable, __file__, "read", str(place)])
                print(f"{form}, {rows * scale} rows: peak {peaks[form, scale]:.0f} MiB, {seconds:.0f} s", flush=True)
    for form in ("parquet", "jsonl"):
        print(f"{form}: peak at {times}x over peak at 1x: {peaks[form, times] / peaks[form, 1]:.2f}")


def main() -> None:
    """Run one of the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    for name, default in (("rates", 40_000), ("memory", 60_000)):
        command = commands.add_parser(name)
        command.add_argument("--rows", type=int, default=default)
        command.add_argument(
            "--rounds" if name == "rates" else "--times", type=int, default=3 if name == "rates" else 20
        )
    command.add_argument("--words", type=int, default=24)  # of the last command, memory
    commands.add_parser("read").add_argument("place", type=Path)
    command = commands.add_parser("prepare")
    command.add_argument("file")
    command.add_argument("--labels")
    args = parser.parse_args()
    if args.what == "rates":
        rates(args.rows, args.rounds)
    elif args.what == "memory":
        memory(args.rows, args.times, args.words)
    elif args.what == "read":
        from rayclf.cluster import connect

        connect()
        ours(args.place, encoding())
    else:
        with tempfile.TemporaryDirectory() as folder:
            rayclf = str(Path(sys.executable).with_name("rayclf"))
            command = [rayclf, "data", "prepare", args.file, "-o", f"{folder}/out", "--yes"]
            seconds, peak = peak_of(command + (["--labels", args.labels] if args.labels else []))
            record = json.loads(Path(folder, "out", "dataset.json").read_text())
        print(f"{record['read']} rows, {len(record['parts']['train']['positive'])} labels: "
              f"{seconds:.0f} s, peak {peak:.0f} MiB")  # fmt: skip


if __name__ == "__main__":
    main()
