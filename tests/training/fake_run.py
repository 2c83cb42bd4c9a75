"""A run folder as training leaves one, made up: for what reads it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics import MetricState
from rayclf.storage import plain, write_json
from rayclf.training.run import Run

CONFIG = """
model: {method: lora, lora: {r: 16}}
train: {epochs: 3, batch_size: 32, learning_rate: 5.0e-5, strategy: ddp, seed: 17, metric: f1_macro, loss: focal,
  class_weights: balanced, label_smoothing: 0.1}
resources: {workers: 2}
"""


def measure(space: LabelSpace, skill: float, rows: int = 150, seed: int = 0) -> dict[str, Any]:
    """All metrics of answers that are as good as ``skill`` (0: guesses) makes them."""
    rng = np.random.default_rng(seed)
    size = len(space)
    if space.problem_type is ProblemType.MULTICLASS:
        targets = np.eye(size, dtype=np.float32)[rng.integers(0, size, rows)]
    else:
        targets = (rng.random((rows, size)) < 0.3).astype(np.float32)
    logits = rng.normal(size=(rows, size)) + skill * (2 * targets - 1)
    state = MetricState(space, np.full(size, 0.5, np.float32))
    state.update(space.probabilities(logits.astype(np.float32)), targets)
    return plain(state.compute()) | {"ece": 0.08 - 0.01 * skill, "mcc": skill / 4, "own": {"match of both": skill / 5}}


def make_run(folder: Path, names: tuple[str, ...], problem_type: ProblemType = ProblemType.MULTICLASS) -> Run:
    """A finished run over these labels with everything that a report can show."""
    space = LabelSpace(names, problem_type)
    artifact = folder / "artifact"
    artifact.mkdir(parents=True)
    rng = np.random.default_rng(1)
    lines: list[dict[str, Any]] = [evaluation(0, "validation", measure(space, 0.0))]
    for step in range(1, 301):
        lines.append(
            {
                "time": 1.7e9 + 0.1 * step,
                "kind": "step",
                "step": step,
                "epoch": (step - 1) // 100 + 1,
                "loss": 2 * math.exp(-step / 80) + 0.2 + 0.15 * float(rng.random()),
                "learning_rate": 5e-5 * min(step / 30, (300 - step) / 270),
                "grad_norm": 1 + 2 * float(rng.random()),
                "rows": 32,
                "rows_per_second": 311.5,
            }
        )
        if step % 50 == 0:
            lines.append(evaluation(step, "validation", measure(space, 0.2 + step / 120)))
    test = measure(space, 1.4, seed=3)
    lines.append(evaluation(300, "test", test))
    interval = {
        "metric": "f1_macro",
        "low": test["f1_macro"] - 0.03,
        "high": min(test["f1_macro"] + 0.03, 1),
        "level": 0.95,
    }
    metrics = {
        "baseline": measure(space, 0.0),
        "validation": measure(space, 2.7),
        "train": measure(space, 3.5, seed=4),
        "test": test | {"interval": interval},
    }
    info = {
        "label_space": space.to_json(),
        "tuning": "lora",
        "max_length": 256,
        "temperature": 1.37,
        "thresholds": [0.5] * len(names),
        "created": "2026-01-02T03:04:05+00:00",
        "metrics": metrics,
    }
    write_json(artifact / "rayclf.json", info)
    status = {
        "backbone": "sentence-transformers/all-MiniLM-L6-v2",
        "data": "questions.csv",
        "rows": {"train": 3200, "validation": 400, "test": 400},
        "read": 4003,
        "quarantined": 3,
        "started": "2026-01-02T03:04:05+00:00",
        "ended": "2026-01-02T03:11:09+00:00",
        "resumed": 1,
        "early_stopped": 300,
    }
    write_json(folder / "status.json", status)
    write_json(folder / "curves.json", curves(names))
    mistakes = [
        {
            "id": f"questions.csv:{n}",
            "expected": [names[n % len(names)]],
            "predicted": [names[0]],
            "score": 0.99 - n / 50,
        }
        for n in range(12)
    ]
    write_json(folder / "mistakes.json", mistakes)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run(folder)


def evaluation(step: int, part: str, metrics: dict[str, Any]) -> dict[str, Any]:
    """A line of ``metrics.jsonl``."""
    return {"kind": "evaluation", "part": part, "step": step, "epoch": step // 100, **metrics}


def curves(names: tuple[str, ...]) -> dict[str, Any]:
    """``curves.json`` for these labels."""
    grid = [i / 50 for i in range(51)]
    bent = {name: 0.15 + 0.05 * (i % 9) for i, name in enumerate(names)}
    return {
        "roc": [{"label": name, "points": [[x, x**power] for x in grid]} for name, power in bent.items()],
        "pr": [{"label": name, "points": [[x, 1 - x ** (1 / power)] for x in grid]} for name, power in bent.items()],
        "thresholds": [
            {"label": name, "chosen": 0.303, "points": [[x, 4 * power * x * (1 - x) + 0.2] for x in grid]}
            for name, power in bent.items()
        ],
        "reliability": [[i / 10 + 0.05, i / 10 + 0.07, 20] for i in range(10)],
        "reliability_before": [[i / 10 + 0.05, (i / 10 + 0.05) ** 1.6, 20 * (i > 1)] for i in range(10)],
    }
