"""The settings and the measured numbers of run folders, and those of several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from rayclf.training.run import Run

_FACTS = ("data", "test", "backbone", "rows", "quarantined", "strategy", "workers")


@dataclass(frozen=True)
class Comparison:
    """Runs side by side: for each setting that differs, and each metric by part (``test f1_macro``), a value a run."""

    runs: tuple[str, ...]
    settings: Mapping[str, tuple[Any, ...]]
    metrics: Mapping[str, tuple[float | None, ...]]


def settings_of(run: Run) -> dict[str, Any]:
    """The settings of ``config.yaml`` by dotted path; also those of another version of rayclf."""
    return dict(_leaves(yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))))


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        place = f"{path}.{name}".lstrip(".")
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, place)
        else:
            yield place, value


def metrics_of(run: Run) -> dict[str, dict[str, float]]:
    """The numbers among the metrics of each part; the user's own by name, as ``own.<name>``."""
    if (run.artifact / "rayclf.json").is_file():
        parts: dict[str, Any] = run.metrics
    else:
        parts = {event["part"]: event for event in run.events if event["kind"] == "evaluation"}
    return {
        part: {name: value for name, value in _leaves(metrics) if _is_metric(name, value)}
        for part, metrics in parts.items()
    }


def _is_metric(name: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and name not in ("time", "step", "epoch") and not name.startswith("interval.")


def compare(runs: Sequence[Run]) -> Comparison:
    """The settings and facts in which ``runs`` differ, and all their metrics; None where a run has none."""
    told = []
    for run in runs:
        status = run.status
        facts = dict(_leaves({name: status.get(name) for name in _FACTS}))
        told.append(facts | settings_of(run))
    settings = {name: tuple(one.get(name) for one in told) for name in dict.fromkeys(n for one in told for n in one)}
    measured = [
        {f"{part} {name}": value for part, values in metrics_of(run).items() for name, value in values.items()}
        for run in runs
    ]
    names = dict.fromkeys(name for one in measured for name in one)
    return Comparison(
        runs=tuple(str(run.folder) for run in runs),
        settings={name: values for name, values in settings.items() if any(value != values[0] for value in values)},
        metrics={name: tuple(one.get(name) for one in measured) for name in names},
    )
