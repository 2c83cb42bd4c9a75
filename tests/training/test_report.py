"""The report: whole, self-contained, and safe to open whatever the labels are called."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics import MetricState
from rayclf.storage import plain
from rayclf.training.report import line_chart, render, smooth

SPACE = LabelSpace(("<script>alert(1)</script>", "b & c"), ProblemType.MULTICLASS)


def test_a_page_with_hostile_names() -> None:
    state = MetricState(SPACE, np.zeros(2, np.float32))
    state.update(np.asarray([[0.9, 0.1], [0.8, 0.2]], np.float32), np.asarray([[0, 1], [1, 0]], np.float32))
    metrics = plain(state.compute())
    events = [{"kind": "step", "step": i, "epoch": 1, "loss": 1 / (i + 1)} for i in range(5)]
    events.append({"kind": "evaluation", "part": "validation", "step": 5, "epoch": 1, **metrics})
    info = {"label_space": SPACE.to_json(), "tuning": "full", "created": "now", "metrics": {"test": metrics}}
    page = render(events, info, {"backbone": "<b>", "data": "x.csv", "rows": {"train": 2}})
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert "script" not in tags
    assert tags.count("svg") == 2
    assert "0.5000" in page  # the accuracy
    assert "&lt;script&gt;" in page


def test_smooth_is_a_mean_that_follows() -> None:
    assert [y for _, y in smooth([(0, 4.0), (1, 4.0), (2, 4.0)])] == pytest.approx([4.0, 4.0, 4.0])
    last = smooth([(i, float(i > 50)) for i in range(100)])[-1][1]
    assert 0.99 < last < 1


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, float("nan"))], [(1, 2.0), (2, None), (3, 2.0)]])
def test_charts_of_little(points: list[tuple[float, float]]) -> None:
    drawn = line_chart({"x": points}, "step", "loss")
    assert "nan" not in drawn
    assert ("<polyline" in drawn) == any(y == 2.0 for _, y in points)
