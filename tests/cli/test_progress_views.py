"""What a training tells on a terminal while it runs."""

from __future__ import annotations

import numpy as np

from rayclf.cli.event_lines import event_line
from rayclf.cli.progress_views import TrainView
from rayclf.cli.show import console
from rayclf.data.texts import TextSource
from rayclf.data.weights import LabelCounts
from rayclf.labels import LabelSpace, ProblemType


def test_a_training_tells_what_it_was_cut_to_and_that_nothing_was_left() -> None:
    start = {"kind": "start", "backbone": "b", "parameters": 1e6, "workers": 1, "strategy": "single", "tuning": "full",
             "max_length": 512, "steps": 100}  # fmt: skip
    with console.capture() as captured:
        view = TrainView()
        view(start)
        view({"kind": "done before"})
        view({"kind": "put back"})
    told = " ".join(captured.get().split())
    assert "up to 512 tokens a text, full tuning, 1 worker(s), single, 100 steps; Ray is starting" in told
    assert "the run is done already: nothing is left to train" in told
    assert "is in its place again" in told


def test_a_training_says_what_to_look_at_in_its_data() -> None:
    names = ("a", "b")
    data = {
        "kind": "data",
        "quarantined": 0,
        "read": 9,
        "reads": TextSource(text="words"),
        "label": "tags",
        "space": LabelSpace(names, ProblemType.MULTICLASS),
        "parts": {"train": LabelCounts(9, np.zeros(2, np.int64), np.zeros(2, np.int64))},
        "hints": ("all 2 test rows hold '[b]': hold out more",),
    }
    with console.capture() as captured:
        TrainView()(data)
    assert "text column words, label column tags" in captured.get()
    assert "look at this: all 2 test rows hold '[b]': hold out more" in captured.get()
    assert event_line(data) == "9 rows read, 0 set aside; train 9; 2 label(s), multiclass; look at this: " + (
        "all 2 test rows hold '[b]': hold out more"
    )
