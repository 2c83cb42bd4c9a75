"""The work that goes on while hosts fail, and what has become of it: trainings, scoring jobs, an endpoint."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from lab import Lab
from pyarrow import fs
from ray_hosts import HTTP, Cluster
from tiny import write_backbone

import rayclf
from rayclf.scoring.manifest import Manifest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from score_faults import Result, compare, contents

TOPICS = {  # words of each label, and those that all of them share
    "delivery": "parcel courier late address depot shipped track box arrived street",
    "payment": "invoice card refund charged bank twice price receipt amount euro",
    "account": "password login mail locked name change profile delete code reset",
    "": "please my the was is not yet again since monday help with for i have",
}
ENDPOINT = "messages"


@dataclass(frozen=True)
class Size:
    """How much there is to do: labelled rows and passes over them, rows to score."""

    labelled: int
    epochs: int
    corpus: int


QUICK, LONG = Size(300, 1, 4000), Size(800, 6, 120_000)


def texts(count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Made-up messages and their labels."""
    chance = random.Random(seed)
    words = {label: told.split() for label, told in TOPICS.items()}
    for number in range(count):
        label = chance.choice([label for label in words if label])
        some = chance.choices(words[label], k=chance.randint(2, 5)) + chance.choices(words[""], k=chance.randint(2, 12))
        chance.shuffle(some)
        yield f"{' '.join(some)} {number}", label


@dataclass
class Work:
    """The jobs of a lab, their input, and what comes of them where nothing is disturbed."""

    lab: Lab
    size: Size
    artifact: str = ""
    losses: dict[int, float] = field(default_factory=dict)
    truth: dict[str, bytes] = field(default_factory=dict)
    runs: int = 0

    def lay_out(self) -> None:
        """Write the input: rows to the store, the backbone to the disk that all nodes share."""
        labelled = [{"text": text, "label": label} for text, label in texts(self.size.labelled, 1)]
        filesystem, bucket = self.lab.s3.filesystem(), self.lab.bucket.removeprefix("s3://")
        with filesystem.open_output_stream(f"{bucket}/labelled.jsonl") as file:
            file.write("".join(json.dumps(row) + "\n" for row in labelled).encode())
        parts = 4
        for part in range(parts):
            table = pa.table({"text": [text for text, _ in texts(self.size.corpus // parts, 2 + part)]})
            with filesystem.open_output_stream(f"{bucket}/corpus/{part}.parquet") as file:
                pq.write_table(table, file)

    @cached_property
    def backbone(self) -> Path:
        """A tiny backbone."""
        return write_backbone(self.lab.folder / "backbone", "bert")

    def place(self, name: str) -> str:
        """Where something lies in the store."""
        return f"{self.lab.bucket}/{name}"

    def prepare(self, cluster: Cluster) -> None:
        """Prepared data in the store."""
        cluster.do("prepare", {"data": self.place("labelled.jsonl"), "output": self.place("data")})

    def training(self, workers: int | list[int], cpus: int = 4, tokens: int = 64) -> dict[str, Any]:
        """The settings of a new training, with ``cpus`` for each worker; the fewer ``tokens`` at a time, the slower."""
        self.runs += 1
        train = {
            "epochs": self.size.epochs,
            "batch_size": 32,
            "micro_batch_tokens": tokens,
            "learning_rate": 3e-3,
            "precision": "fp32",
            "checkpoint_steps": 5,
            "max_failures": 3,
        }
        resources = {"workers": workers, "cpus_per_worker": cpus, "threads": 1}
        return {
            "data": self.place("data"),
            "output": str(self.lab.folder / "runs" / str(self.runs)),
            "backbone": str(self.backbone),
            "resume": True,
            "config": {"train": train, "resources": resources, "evaluation": {"training_rows": 0, "resamples": 0}},
        }

    def publish(self, run: rayclf.Run) -> None:
        """Put the artifact of a run into the store, for all that follows."""
        self.artifact = self.place("models/messages")
        fs.copy_files(
            str(run.artifact), self.artifact.removeprefix("s3://"), destination_filesystem=self.lab.s3.filesystem()
        )
        self.losses = losses(run)

    def scoring(self, name: str, replicas: list[int]) -> dict[str, object]:
        """The settings of a scoring job."""
        return {
            "artifact": self.artifact,
            "source": self.place("corpus"),
            "output": self.place(name),
            "replicas": replicas,
        }

    def undisturbed(self) -> None:
        """Do all of it once, on a cluster of its own to which nothing happens."""
        self.lay_out()
        with Cluster(self.lab) as cluster:
            self.prepare(cluster)
            self.publish(train(cluster, self.training([1, 2])))
            self.score_undisturbed(cluster)

    def score_undisturbed(self, cluster: Cluster) -> None:
        """The output that all others must equal."""
        cluster.do("score", self.scoring("undisturbed", [2, 2]))
        with as_client(self.lab):
            self.truth = contents(self.place("undisturbed"))

    def scored(self, name: str) -> Result:
        """What became of a scoring job; its output is read, and proved as ``rayclf score --verify`` does."""
        with as_client(self.lab):
            result = compare(self.truth, self.place(name), 0)
        result.codes = [0]
        return result

    def done(self, name: str) -> int:
        """Files of scored rows that are there."""
        with as_client(self.lab):
            return len(Manifest(self.place(name)).parts())

    def deploy(self, cluster: Cluster, replicas: int) -> None:
        """An endpoint on the cluster."""
        settings = {"name": ENDPOINT, "artifact": self.artifact, "replicas": [replicas] * 2, "keys": False}
        cluster.do("deploy", settings | {"host": "0.0.0.0", "port": HTTP})


@contextmanager
def as_client(lab: Lab) -> Iterator[None]:
    """Have this process know the store as the nodes do."""
    before = {name: os.environ.get(name) for name in lab.s3.variables()}
    os.environ.update(lab.s3.variables())
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def losses(run: rayclf.Run) -> dict[int, float]:
    """The loss of each step that made the classifier."""
    return {event["step"]: event["loss"] for event in run.events if event["kind"] == "step"}


def hosts_of(run: rayclf.Run) -> list[str]:
    """The hosts of a run's workers, by rank."""
    processes = run.status.get("processes", {})
    return [processes[rank]["host"] for rank in sorted(processes)]


def train(cluster: Cluster, settings: Mapping[str, Any], act: Callable[[rayclf.Run], None] | None = None) -> rayclf.Run:
    """A training from its submission to its good end; ``act`` is called when it has gone on a little from its first
    checkpoint. Where that ends the job, its author submits it again."""
    run, job = rayclf.Run(Path(settings["output"])), cluster.submit("train", settings)
    if act is not None:
        listed = run.folder / "checkpoints" / "checkpoint_manager_snapshot.json"
        cluster.reach(job, lambda: listed.exists() and max(losses(run), default=0) >= 12)
        act(run)
    _see_through(cluster, job, "train", settings)
    return run


def score(cluster: Cluster, work: Work, name: str, replicas: list[int], act: Callable[[], None]) -> Result:
    """A scoring job, disturbed when a few of its files are there; submitted again where that ends it."""
    settings = work.scoring(name, replicas)
    job = cluster.submit("score", settings)
    cluster.reach(job, lambda: work.done(name) >= 8)
    act()
    _see_through(cluster, job, "score", settings)
    return work.scored(name)


def _see_through(cluster: Cluster, job: str, script: str, settings: Mapping[str, Any]) -> None:
    for _ in range(3):
        if cluster.wait(job) == "SUCCEEDED":
            return
        last, job = job, cluster.submit(script, settings)
    raise AssertionError(f"{last}: {cluster.log(last)}")
