"""The demonstration's data sets and the steps of it that are not rayclf's own."""

from __future__ import annotations

import json
import os
import socket
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from random import SystemRandom
from typing import Any

import pyarrow.csv
import pyarrow.parquet as pq

from rayclf import storage
from rayclf.errors import UserError


@dataclass(frozen=True)
class Lesson:
    """A demo data set: its file, its settings, and what to ask the endpoint."""

    file: str
    settings: dict[str, Any]
    question: str


LESSONS = {
    "questions": Lesson(
        "questions.csv", {"train.epochs": 4, "train.learning_rate": 2e-4}, "Why do leaves turn red in autumn?"
    ),
    "support": Lesson(
        "support.jsonl",
        {"train.epochs": 8, "train.learning_rate": 3e-4},
        "I was billed twice and the app crashes when I open the invoice.",
    ),
}


def data_file(name: str) -> Path:
    """The path of a demo data file, wherever rayclf is installed."""
    return Path(str(files("rayclf.demo") / "data" / name))


def write_corpus(folder: Path) -> Path:
    """Write the unlabelled demo questions as a Parquet corpus."""
    target = folder / "corpus.parquet"
    with storage.write_whole(target) as file:
        pq.write_table(pyarrow.csv.read_csv(data_file("corpus.csv")), file)
    return target


def free_port() -> int:
    """A port on the loopback address that nobody listens on now.

    Below those that the system hands out by itself (on Linux from 32768), which Ray's many processes take all the time.
    """
    for port in SystemRandom().sample(range(20_000, 32_768), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise UserError("127.0.0.1: no port from 20000 to 32767 seems to be free")


def ask(url: str, text: str) -> dict[str, Any]:
    """One request to a running endpoint; returns its JSON answer."""
    body = json.dumps({"inputs": [text]}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {os.environ.get('RAYCLF_API_KEY', '')}"}
    request = urllib.request.Request(f"{url}/v1/classify", body, headers)  # noqa: S310  # our own loopback address
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        return dict(json.load(answer))


def lesson(name: str) -> Lesson:
    """A demo data set by name; raises UserError for an unknown one."""
    if name not in LESSONS:
        raise UserError(f"--data {name}: no such demo data; choose one of {', '.join(LESSONS)}")
    return LESSONS[name]


def timestamped(folder: str | None, name: str) -> str:
    """The demo's folder: the one asked for, or a new one under ``runs``."""
    return folder or f"runs/demo-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
