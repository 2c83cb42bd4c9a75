"""The head of a report: what was trained on what, how, and for how long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from rayclf.charts import table
from rayclf.training.report.metrics import Events, finite, steps


def title(status: Mapping[str, Any]) -> str:
    """The heading of the page."""
    return f"{status.get('backbone', 'a classifier')} on {status.get('data', 'its data')}"


def facts(
    events: Events, info: Mapping[str, Any], status: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[str]:
    """What was trained on what, how, and for how long."""
    space = info["label_space"]
    rows = status.get("rows") or {}
    told = [("labels", f"{len(space['labels']):,}, {space['problem_type']}")]
    if rows:
        told.append(("rows", ", ".join(f"{part} {count:,}" for part, count in rows.items())))
    if "read" in status:
        aside = status.get("quarantined", 0)
        told.append(("data", f"read {status['read']} = {status['read'] - aside} kept + {aside} quarantined"))
    told += [("look at this", hint) for hint in status.get("hints", ())]
    told += [
        ("tuning", _tuning(info, config)),
        ("training", _training(status, config)),
        ("time", _time(events, status)),
    ]
    if status.get("early_stopped"):
        told.append(("stopped early", _how(status["early_stopped"], "at step {}")))
    if status.get("resumed"):
        told.append(("resumed", _how(status["resumed"], "{} time(s)")))
    told.append(("written", str(info.get("created", ""))))
    yield table((), [fact for fact in told if fact[1]], words=True)


def _how(value: Any, words_of_number: str) -> str:
    if isinstance(value, bool):
        return "yes"
    return words_of_number.format(value) if isinstance(value, int) else str(value)


def _tuning(info: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    model = config.get("model") or {}
    method = model.get("method") if model.get("method") in ("lora", "qlora", "full", "head") else info.get("tuning")
    told = [str(method)]
    if method == "qlora":
        told.append(str(model.get("quantization", "nf4")))
    if method in ("lora", "qlora") and model.get("lora"):
        told.append(f"rank {model['lora'].get('r')}")
    if "max_length" in info:
        told.append(f"{info['max_length']} tokens of a text")
    return ", ".join(told)


def _training(status: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    train, resources = config.get("train") or {}, config.get("resources") or {}
    told = []
    for name, value in (
        ("strategy", status.get("strategy", train.get("strategy"))),
        ("workers", status.get("workers", resources.get("workers"))),
        ("epochs", train.get("epochs")),
        ("batch size", train.get("batch_size")),
        ("learning rate", train.get("learning_rate")),
        ("seed", train.get("seed")),
    ):
        if value is not None:
            told.append(f"{name} {' to '.join(map(str, value)) if isinstance(value, list) else value}")
    return ", ".join(told)


def _time(events: Events, status: Mapping[str, Any]) -> str:
    """From the start to the end, or to the last event of a run whose end is not yet on record; rows trained a second.

    Each step knows the rate of its epoch up to it, so the last step of an epoch knows that of the whole.
    """
    stamps = [time for event in events if (time := finite(event.get("time"))) is not None]
    start, end = _seconds(status.get("started")) or min(stamps, default=None), _seconds(status.get("ended"))
    end = end or max(stamps, default=None)
    told = []
    if start is not None and end is not None and end >= start:
        minutes, seconds = divmod(round(end - start), 60)
        hours, minutes = divmod(minutes, 60)
        told.append(
            f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        )
    rows, spent, rates = 0.0, 0.0, {}
    counts: dict[Any, float] = {}
    for step in steps(events):
        epoch, rate = step.get("epoch"), finite(step.get("rows_per_second"))
        counts[epoch] = counts.get(epoch, 0.0) + (finite(step.get("rows")) or 0.0)
        if rate:
            rates[epoch] = rate
    for epoch, rate in rates.items():
        rows, spent = rows + counts[epoch], spent + counts[epoch] / rate
    if spent:
        told.append(f"{rows / spent:,.1f} training rows a second")
    return ", ".join(told)


def _seconds(stamp: Any) -> float | None:
    try:
        return datetime.fromisoformat(stamp).timestamp() if stamp else None
    except (TypeError, ValueError):
        return None
