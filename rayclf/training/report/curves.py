"""The drawn half of a report: how training went, and how good decisions are at other thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rayclf.charts import Chart, LineChart, Points, heading, note
from rayclf.training.report.metrics import Events, curve, evaluations, finite, flat, steps, watched, words

Sections = Iterator[str | Chart]

_MOST_LABELS = 8  # of a chart of curves: as many as there are colours


def training(events: Events, config: Mapping[str, Any]) -> Sections:
    """Loss, learning rate and gradient norm by step."""
    done = steps(events)
    yield heading("Training")
    if not done:
        yield note("no training step is on record")
        return
    odd = unlike_cross_entropy(config.get("train") or {})
    name = f"training, smoothed ({', '.join(odd)})" if odd else "training, smoothed"
    loss = _column(done, "loss")
    losses: dict[str, Points] = {"training": loss, name: smooth(loss)}
    for part in ("validation", "train"):
        checks = evaluations(events, part)
        if part == "validation" or len(checks) > 1:
            losses[f"{part} log loss"] = curve(checks, "log_loss")
    yield LineChart(losses, "step", "loss", "Loss", faint=["training"], dots=True)
    if odd:
        yield note("the training loss is not the plain cross-entropy: compare its course, not its height")
    yield LineChart({"learning rate": _column(done, "learning_rate")}, "step", "learning rate", "Learning rate")
    norms = _column(done, "grad_norm")
    both: dict[str, Points] = {"before clipping": norms, "smoothed": smooth(norms)}
    yield LineChart(both, "step", "gradient norm", "Gradient norm", faint=["before clipping"])


def _column(lines: Events, name: str) -> Points:
    return [(line["step"], finite(line.get(name))) for line in lines]


def unlike_cross_entropy(train: Mapping[str, Any]) -> list[str]:
    """What makes the training loss another than the log loss of the evaluations, in words; nothing when it is not."""
    odd = [] if train.get("loss", "auto") == "auto" else [f"{train['loss']} loss"]
    if train.get("class_weights", "none") != "none":
        odd.append("class weights")
    if train.get("label_smoothing"):
        odd.append(f"label smoothing {train['label_smoothing']:g}")
    return odd


def smooth(points: Points, share: float = 0.9) -> list[tuple[float, float]]:
    """Running mean of the second coordinate: what is left of the old mean is ``share``, unbiased at the beginning.

    The correction of the beginning is that of Adam (arXiv:1412.6980, section 3). Points without a value are left out.
    """
    result, mean, weight = [], 0.0, 0.0
    for x, y in points:
        if y is not None:
            mean, weight = share * mean + (1 - share) * y, share * weight + (1 - share)
            result.append((x, mean / weight))
    return result


def validation(events: Events, config: Mapping[str, Any]) -> Sections:
    """The metrics that training is watched by; step 0 is the untrained head."""
    part, checks = watched(events)
    if not checks:
        return
    chosen = str((config.get("train") or {}).get("metric", "f1_macro"))
    names = list(dict.fromkeys(("accuracy", "f1_macro", chosen)))
    lines = {name: curve(checks, name) for name in names if name != "log_loss"}
    yield heading(f"{part.capitalize()} rows while training")
    yield note(
        f"{words(chosen)} chooses the best checkpoint"
        + ("; step 0 is before training" if checks[0]["step"] == 0 else "")
        + (", and there the head comes first, fitted by itself" if any("head" in check for check in checks) else "")
    )
    shares = {words(name): line for name, line in lines.items() if _is_share(line)}
    yield LineChart(shares, "step", "metric", "Metrics", dots=True)
    own = {name for check in checks for name in (check.get("own") or {})}
    for name in sorted(own | {name for name, line in lines.items() if not _is_share(line)}):
        if words(name) not in shares:
            drawn = {words(name): curve(checks, name)}
            yield LineChart(drawn, "step", words(name), f"Metric {words(name)}", dots=True)


def _is_share(line: Points) -> bool:
    return all(y is None or -1 <= y <= 1 for _, y in line)


def decisions(found: Mapping[str, Any], info: Mapping[str, Any]) -> Sections:
    """ROC and precision-recall curves, calibration, and F1 by threshold."""
    charts = [
        _by_label(found.get("roc"), "false positive rate", "true positive rate", "ROC curves"),
        _by_label(found.get("pr"), "recall", "precision", "Precision-recall curves"),
        _reliability(found),
        _by_label(found.get("thresholds"), "threshold", "F1", "F1 by threshold"),
    ]
    drawn = [chart for chart in charts if not chart.empty]
    if not drawn:
        return
    yield heading("Curves")
    most = max(len(found.get(kind) or ()) for kind in ("roc", "pr", "thresholds"))
    if most > _MOST_LABELS:
        yield note(f"the first {_MOST_LABELS} of {most:,} labels")
    for chart in drawn:
        yield chart
        if chart.marks:
            yield note("a dot is the threshold that was chosen")
        if chart is charts[2]:
            yield note(_calibration(info))


def _by_label(curves: Sequence[Mapping[str, Any]] | None, x_name: str, y_name: str, name: str) -> LineChart:
    """A line for each label, with the diagonal of a guess below ROC curves and a dot at a chosen threshold."""
    shown = list(curves or ())[:_MOST_LABELS]
    series: dict[str, Points] = {str(one["label"]): _pairs(one["points"]) for one in shown}
    if name == "Precision-recall curves":
        series = {label: _stairs(points) for label, points in series.items()}
    marks = {str(one["label"]): _nearest(one["chosen"], one["points"]) for one in shown if "chosen" in one}
    guess = "a guess"
    if name == "ROC curves" and guess not in series:
        series[guess] = [(0, 0), (1, 1)]
        return LineChart(series, x_name, y_name, name, reference=[guess], unit=True, height=360)
    return LineChart(series, x_name, y_name, name, marks=marks, unit=True, height=320)


def _pairs(points: Sequence[Sequence[Any]]) -> Points:
    return [(x, finite(y)) for x, y in ((finite(point[0]), point[1]) for point in points) if x is not None]


def _stairs(points: Points) -> Points:
    """Steps instead of slopes: between two recalls that were reached precision is that of the farther one, and the area
    below what average precision says (Davis and Goadrich 2006: a straight line would promise more)."""
    corners = [(x, y) for (x, _), (_, y) in pairwise(points)]
    return [*points[:1], *(place for pair in zip(corners, points[1:], strict=True) for place in pair)]


def _nearest(threshold: Any, points: Sequence[Sequence[Any]]) -> tuple[float, float]:
    """The point of a curve that is nearest to a threshold, so that its mark lies on the line."""
    x, nan = finite(threshold), float("nan")
    places = [(a, b) for a, b in _pairs(points) if b is not None]
    return min(places, key=lambda place: abs(place[0] - x)) if x is not None and places else (nan, nan)


def _reliability(found: Mapping[str, Any]) -> LineChart:
    """How often answers are right by how sure the model is, before and after the temperature."""
    bins = {"before calibration": found.get("reliability_before"), "after calibration": found.get("reliability")}
    if not bins["before calibration"]:
        bins = {"answers": bins["after calibration"]}
    series: dict[str, Points] = {
        name: _pairs([one for one in points if len(one) < 3 or one[2]]) for name, points in bins.items() if points
    }
    series["perfect"] = [(0, 0), (1, 1)]
    return LineChart(series, "confidence", "accuracy", "Calibration", ("perfect",), dots=True, unit=True, height=360)


def _calibration(info: Mapping[str, Any]) -> str:
    """The temperature, and the calibration error of the parts whose metrics have one."""
    told = f"temperature {info.get('temperature', 1.0):.4g}: above 1 makes answers less sure, below 1 more"
    errors = {part: finite(flat(metrics).get("ece")) for part, metrics in (info.get("metrics") or {}).items()}
    known = ", ".join(f"{part} {error:.4f}" for part, error in errors.items() if error is not None)
    return f"{told}; expected calibration error: {known}" if known else told
