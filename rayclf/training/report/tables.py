"""The written half of a report: how good the classifier is by part and by label, and where it errs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rayclf.charts import BarChart, Chart, Heatmap, Histogram, heading, note, table
from rayclf.metrics import LOWER_IS_BETTER
from rayclf.training.report.metrics import Events, finite, flat, judged, parts, words

Sections = Iterator[str | Chart]

_MOST_ROWS = 200
_MOST_MISTAKES = 50
_MOST_LETTERS = 1000  # of a text that is shown
_MOST_CELLS = 20  # labels of a confusion matrix that can be read
_OVERFIT = 0.05  # more on training rows than on others
_PARTS = {
    "baseline": "before training",
    "head": "head alone",
    "validation": "validation",
    "train": "training rows",
    "test": "test",
}


def metrics(events: Events, info: Mapping[str, Any], config: Mapping[str, Any]) -> Sections:
    """All metrics of all parts side by side, the one that chose the checkpoint first."""
    found = parts(events, info)
    yield heading("Metrics")
    if not found:
        yield note("no part was held out to measure on")
        return
    chosen = str((config.get("train") or {}).get("metric", "f1_macro"))
    values = {part: flat(one) for part, one in found.items()}
    first = ("rows", chosen, "accuracy", "f1_macro", "roc_auc", "log_loss", "ece")
    every = dict.fromkeys([*first, *(name for one in values.values() for name in one)])
    names = [name for name in every if any(name in one for one in values.values())]
    intervals = {part: one.get("interval") or {} for part, one in found.items()}
    yield table(
        ("", *(_PARTS[part] for part in found)),
        [
            (words(name), *(_with_interval(name, one, intervals[part]) for part, one in values.items()))
            for name in names
        ],
    )
    levels = sorted({level for one in intervals.values() if (level := finite(one.get("level"))) is not None})
    if levels:
        yield note(
            f"in brackets: the {', '.join(f'{level:.0%}' for level in levels)} confidence interval, by bootstrap; "
            "where all rows are right or all wrong, that of accuracy, exact for so many rows"
        )
    part, shown = judged(events, info)
    seen, unseen = finite(values.get("train", {}).get(chosen)), finite(values.get(part, {}).get(chosen))
    if part != "train" and seen is not None and unseen is not None:
        lost = unseen - seen if chosen in LOWER_IS_BETTER else seen - unseen
        certain = _apart(intervals["train"], intervals[part], chosen)
        verdict = ": what it has seen it knows much better, which is overfitting" if certain and lost > _OVERFIT else ""
        how = "higher" if unseen > seen else "lower"
        yield note(
            f"{words(chosen)} is {seen:.4f} on training rows and {unseen:.4f} on {_PARTS[part]} rows, "
            f"{abs(seen - unseen):.4f} {how}{verdict}"
        )
    counted = [(finite(row.get("support")) or 0, str(row["label"])) for row in shown.get("per_label") or []]
    if (total := sum(count for count, _ in counted)) and info["label_space"]["problem_type"] == "multiclass":
        count, label = max(counted)
        yield note(f"answering {label} always would be right on {count / total:.4f} of the {_PARTS[part]} rows")


def _with_interval(name: str, values: Mapping[str, Any], interval: Mapping[str, Any]) -> Any:
    value, low, high = values.get(name), finite(interval.get("low")), finite(interval.get("high"))
    if interval.get("metric") != name or finite(value) is None or low is None or high is None:
        return value
    return f"{value:.4f} ({low:.4f}–{high:.4f})"


def _apart(one: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> bool:
    """Whether two confidence intervals of a metric do not touch, or are not both there: between few rows lies much."""
    ends = [finite(interval.get(end)) for interval in (one, other) for end in ("low", "high")]
    if one.get("metric") != metric or other.get("metric") != metric or None in ends:
        return True
    low, high, other_low, other_high = (end for end in ends if end is not None)
    return high < other_low or other_high < low


def labels(events: Events, info: Mapping[str, Any]) -> Sections:
    """Each label's metrics, and its threshold where it has one."""
    part, found = judged(events, info)
    rows = found.get("per_label") or []
    if not rows:
        return
    yield heading(f"Labels, {_PARTS[part]}")
    scores = [(str(row["label"]), finite(row.get("f1"))) for row in rows]
    if len(rows) > _MOST_CELLS:
        known = [score for _, score in scores if score is not None]
        counts = [0] * 20
        for score in known:
            counts[min(int(score * 20), 19)] += 1
        yield Histogram([i / 20 for i in range(21)], counts, "F1 of a label", name="Labels by F1")
        worst = [
            (row["label"], row.get("f1")) for row in rows if row.get("support") and finite(row.get("f1")) is not None
        ]
        yield BarChart(sorted(worst, key=lambda one: one[1])[:_MOST_CELLS], "Hardest labels", "F1")
    else:
        yield BarChart(scores, "Labels", "F1")
    names = [label["name"] for label in info["label_space"]["labels"]]
    multiclass = info["label_space"]["problem_type"] == "multiclass"
    thresholds = {} if multiclass else dict(zip(names, info.get("thresholds") or (), strict=False))
    columns = [*dict.fromkeys(name for row in rows[:_MOST_ROWS] for name in row if name != "support"), "support"]
    body = [
        [row.get(name) for name in columns] + ([thresholds.get(row["label"])] if thresholds else [])
        for row in rows[:_MOST_ROWS]
    ]
    head = ["rows" if name == "support" else words(name) for name in columns]
    yield table([*head, "threshold"] if thresholds else head, body)
    if len(rows) > _MOST_ROWS:
        yield note(f"the first {_MOST_ROWS} of {len(rows):,} labels; all of them are in artifact/rayclf.json")


def confusions(events: Events, info: Mapping[str, Any]) -> Sections:
    """The confusion matrix of a label space that is small, else what is confused most."""
    part, found = judged(events, info)
    rows, pairs = found.get("per_label") or [], found.get("confusions") or []
    if info["label_space"]["problem_type"] == "multilabel" or not rows:
        return
    yield heading(f"Confusions, {_PARTS[part]}")
    if len(rows) <= _MOST_CELLS:
        chart, left = confusion_matrix(rows, pairs)
        yield chart
        if left:
            yield note(f"{left:,} more wrong answers lie in the cells with a question mark")
    elif pairs:
        yield table(
            ("expected", "predicted", "rows"), [(one["actual"], one["predicted"], one["rows"]) for one in pairs]
        )
    else:
        yield note("nothing is confused")


def confusion_matrix(rows: Sequence[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]]) -> tuple[Heatmap, int]:
    """The matrix that per-label recall and the top confusions tell of, and how many answers they leave untold.

    The diagonal is recall times rows. Rows of a label that are neither there nor in ``pairs`` lie in its other cells:
    in the only one, if there is but one, else in cells that are not known.
    """
    names = [str(row["label"]) for row in rows]
    place = {name: i for i, name in enumerate(names)}
    cells: list[list[float | None]] = [[None] * len(names) for _ in names]
    totals = [int(finite(row.get("support")) or 0) for row in rows]
    left_out = 0
    for i, row in enumerate(rows):
        cells[i][i] = round((finite(row.get("recall")) or 0.0) * totals[i])
    for pair in pairs:
        if pair["actual"] in place and pair["predicted"] in place:
            cells[place[pair["actual"]]][place[pair["predicted"]]] = pair["rows"]
    for line, total in zip(cells, totals, strict=True):
        left = max(total - sum(int(cell or 0) for cell in line), 0)
        open_cells = [i for i, cell in enumerate(line) if cell is None]
        if left and len(open_cells) > 1:
            left_out += left
            continue
        for i in open_cells:
            line[i] = left
    return Heatmap(names, cells, totals, "predicted", "expected", "Confusion matrix"), left_out


def mistakes(found: Sequence[Mapping[str, Any]]) -> Sections:
    """Wrong answers that the model was most sure of; their texts only where the run kept them."""
    if not found:
        return
    shown = found[:_MOST_MISTAKES]
    texts = any(one.get("text") is not None for one in shown)
    yield heading("Worst mistakes")
    if not texts:
        yield note("texts are left out; output.texts=true puts them here")
    body = []
    for one in shown:
        text = str(one.get("text") or "")
        cut = text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}…"
        row = [
            str(one.get("id", "")),
            _names(one.get("expected")),
            _names(one.get("predicted")),
            _score(one.get("score")),
        ]
        body.append([*row, cut] if texts else row)
    yield table(("id", "expected", "predicted", "score", *(("text",) if texts else ())), body, words=True)


def _names(labels_of_row: Any) -> str:
    given = [labels_of_row] if isinstance(labels_of_row, str) else labels_of_row or ()
    return ", ".join(map(str, given)) or "none"


def _score(value: Any) -> float:
    score = finite(value)
    return math.nan if score is None else score
