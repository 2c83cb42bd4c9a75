"""What happens in a job, each event in a line of plain text: for logs, for ``runs logs`` and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayclf.cli.show import duration, number

_TOLD = {"accuracy": "accuracy", "f1_macro": "F1 macro", "log_loss": "log loss"}


def step_line(event: Mapping[str, Any]) -> str:
    """What a training step tells, but for its number."""
    return f"epoch {event['epoch']}, loss {event['loss']:.4f}, {event['rows_per_second']:.0f} rows/s"


def event_line(event: Mapping[str, Any]) -> str | None:
    """An event in one line of plain text; None for one that has nothing to tell."""
    match event["kind"]:
        case "data":
            parts = ", ".join(f"{name} {counts.rows}" for name, counts in event["parts"].items())
            space = event["space"]
            told = f"{event['read']} rows read, {event['quarantined']} set aside; {parts}; {_labels(space)}"
            return "; look at this: ".join((told, *event["hints"]))
        case "plan" if "plan" in event:
            plan = event["plan"]
            parts = ", ".join(f"{name} {plan.counts(name).rows}" for name in plan.names)
            return "; look at this: ".join((f"{parts}; {_labels(plan.found.space)}", *event["hints"]))
        case "plan":
            units = "1 unit" if event["units"] == 1 else f"{event['units']} units"
            return f"{event['rows']} rows in {units}, {event['done']} rows done before"
        case "start":
            size = f"{event['backbone']} ({event['parameters'] / 1e6:.1f} M parameters)"
            size += f", up to {event['max_length']} tokens a text"
            if (asked := event.get("asked_length", 0)) > event["max_length"]:
                size += f", all that it can read (model.max_length: {asked})"
            where = f"{event['workers']} worker(s), {event['strategy']}"
            return f"backbone {size}, {event['tuning']} tuning, {where}, {event['steps']} steps"
        case "head":
            fell = f"loss {event['loss_before']:.4f} to {event['loss']:.4f}"
            return f"head fitted to {event['rows']} rows in {event['seconds']:.0f} s, {fell}"
        case "step":
            return f"step {event['step']}, {step_line(event)}"
        case "evaluation":
            first = "of the head alone" if event.get("head") else "before training"
            step = f"of step {event['step']}" if event.get("step") else first
            when = "of the best checkpoint" if event.get("final") else step
            return f"evaluation {when} on {event['part']} rows: {metrics_line(event)}"
        case "waiting":
            return f"no worker has begun: needed {event['needed']}; free {event['free']}"
        case "damaged checkpoints":
            return f"damaged or gone, so passed over: {', '.join(event['names'])}"
        case "put back":
            return "it came to nothing: what was to be overwritten is in its place again"
        case "resumed":
            return f"going on after step {max(0, event['step'])}"
        case "done before":
            return "the run is done already: nothing is left to train"
        case "stopping":
            return "stopping after a checkpoint; with resume the same job goes on from there"
        case "search":
            return f"{event['trials']} trials, {event['concurrent']} at a time, over {', '.join(event['space'])}"
        case "trial":
            return _trial_line(event)
        case "ended":
            return event["state"] + (f": {event['error']}" if event["error"] else "")
    return None


def metrics_line(metrics: Mapping[str, Any]) -> str:
    """The metrics that a log tells, of many, and the user's own."""
    told = {shown: metrics[name] for name, shown in _TOLD.items() if name in metrics} | (metrics.get("own") or {})
    return ", ".join(f"{name} {number(value)}" for name, value in told.items())


def _labels(space: Any) -> str:
    return f"{len(space)} label(s), {space.problem_type}"


def _trial_line(event: Mapping[str, Any]) -> str:
    trial = event["trial"]
    values = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in trial.values.items())
    what = f"{trial.state}: {trial.error}" if trial.error else f"{trial.state}, {number(trial.score)}"
    best = ", best so far" if trial.id == event["best"] else ""
    left = "" if event["left"] is None else f", {duration(event['left'])} left"
    return f"{event['ended']}/{event['of']} trial {trial.id} ({values}): {what}{best}{left}"
