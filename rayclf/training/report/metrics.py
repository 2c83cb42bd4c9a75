"""Metrics as they lie in a run: which part they are of, under which name, at which step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rayclf.charts import Points

Events = Sequence[Mapping[str, Any]]

# Of an evaluation line, what is no metric.
_ABOUT = {"time", "kind", "part", "step", "epoch", "interval", "head"}


def flat(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics with one value each, by name; own metrics by theirs, nested ones as ``name key``."""
    found: dict[str, Any] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping) and name != "interval":
            plain = name == "own" and not value.keys() & metrics.keys()
            found |= {key if plain else f"{name} {key}": one for key, one in value.items()}
        elif not isinstance(value, list | tuple) and name not in _ABOUT:
            found[name] = value
    return found


def steps(events: Events) -> list[Mapping[str, Any]]:
    """The training steps, each once: a run that was resumed has trained some twice, of which the later counts."""
    return _once(event for event in events if event.get("kind") == "step")


def evaluations(events: Events, part: str) -> list[Mapping[str, Any]]:
    """The evaluations of a part by step: those while training, or else the last, which is after calibration.

    At step 0 there may be two, of the head as it came and of the fitted one.
    """
    found = [event for event in events if event.get("kind") == "evaluation" and event.get("part") == part]
    return _once([event for event in found if not event.get("final")] or found)


def _once(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [event for _, event in sorted({(event["step"], "head" in event): event for event in events}.items())]


def watched(events: Events) -> tuple[str, list[Mapping[str, Any]]]:
    """The part that was evaluated while training, and its evaluations: validation, or test where there is none."""
    found = {part: evaluations(events, part) for part in ("validation", "test")}
    part = "validation" if found["validation"] else "test"
    return part, found[part]


def parts(events: Events, info: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Metrics of ``baseline``, ``head``, ``validation``, ``train`` and ``test``, those of them that there are.

    The artifact's own come first; for others the last evaluation stands, and for the baseline and the fitted head those
    before step 1.
    """
    found: dict[str, Mapping[str, Any]] = {}
    of_artifact = info.get("metrics") or {}
    for part in ("baseline", "head", "validation", "train", "test"):
        if part in ("baseline", "head"):
            lines = [
                event for event in watched(events)[1] if event["step"] == 0 and ("head" in event) == (part == "head")
            ]
        else:
            lines = [event for event in evaluations(events, part) if event["step"] > 0]
        metrics = of_artifact.get(part) or (lines[-1] if lines else None)
        if metrics:
            found[part] = metrics
    return found


def judged(events: Events, info: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The part whose rows tell most of the finished classifier: test, else validation, else training rows."""
    found = parts(events, info)
    return next(((part, found[part]) for part in ("test", "validation", "train") if part in found), ("test", {}))


def curve(events: Events, name: str) -> Points:
    """A metric by step; None where it is not known."""
    return [(event["step"], finite(flat(event).get(name))) for event in events]


def finite(value: Any) -> float | None:
    """A number, or None for what is none: text, NaN, infinity."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def words(name: str) -> str:
    """The name of a metric for a person."""
    known = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "mcc": "MCC", "ece": "ECE", "lrap": "LRAP"}
    parts_of_name = (known.get(one, one.replace("_", " ")) for one in name.split(" "))
    return " ".join(parts_of_name).replace("f1", "F1").replace("ndcg", "nDCG")
