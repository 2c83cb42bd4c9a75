"""The report: all of a run on one page that is safe to open whatever the labels are called."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics import MetricState
from rayclf.storage import plain
from rayclf.training.report import render, smooth

SPACE = LabelSpace(("<script>alert(1)</script>", "b & c"), ProblemType.MULTICLASS)


def test_a_page_with_hostile_names() -> None:
    state = MetricState(SPACE, np.zeros(2, np.float32))
    state.update(np.asarray([[0.9, 0.1], [0.8, 0.2]], np.float32), np.asarray([[0, 1], [1, 0]], np.float32))
    metrics = plain(state.compute())
    events = [{"kind": "step", "step": i, "epoch": 1, "loss": 1 / (i + 1)} for i in range(5)]
    events.append({"kind": "evaluation", "part": "validation", "step": 5, "epoch": 1, **metrics})
    info = {"label_space": SPACE.to_json(), "tuning": "full", "created": "now", "metrics": {"test": metrics}}
    status = {"backbone": "<b>", "data": "x.csv", "rows": {"train": 2}, "read": 5, "quarantined": 3}
    page = render(events, info, status)
    root = ElementTree.fromstring(page)
    tags = [node.tag for node in root.iter()]
    assert not {"script", "b"} & set(tags)
    assert root.findtext("body/h1") == "<b> on x.csv"
    assert [node.text for node in root.iter("h2")] == ["Loss", "Validation", "Metrics, test"]
    assert tags.count("svg") == 2
    assert "read 5 = 2 kept + 3 quarantined" in page
    assert "0.5000" in page  # the accuracy
    assert "&lt;script&gt;" in page


def test_smooth_is_a_mean_that_follows() -> None:
    assert [y for _, y in smooth([(0, 4.0), (1, 4.0), (2, 4.0)])] == pytest.approx([4.0, 4.0, 4.0])
    last = smooth([(i, float(i > 50)) for i in range(100)])[-1][1]
    assert 0.99 < last < 1
