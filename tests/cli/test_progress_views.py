"""What a training tells on a terminal while it runs."""

from __future__ import annotations

import numpy as np
import pytest

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


@pytest.mark.parametrize(
    ("names", "kind", "told"),
    [
        (("a", "a;b", "a;b;c", "b;c"), ProblemType.MULTICLASS, True),
        (("a", "a;b", "a;b;c", "b;c"), ProblemType.MULTILABEL, False),
        (("Sci/Tech", "World"), ProblemType.MULTICLASS, False),
    ],
)
def test_a_training_on_labels_that_look_joined_says_so(names: tuple[str, ...], kind: ProblemType, told: bool) -> None:
    counts = LabelCounts(9, np.zeros(len(names), np.int64), np.zeros(len(names), np.int64))
    data = {
        "reads": TextSource(text="words"),
        "label": "tags",
        "space": LabelSpace(names, kind),
        "parts": {"train": counts},
    }
    with console.capture() as captured:
        TrainView()({"kind": "data", "quarantined": 0, "read": 9, **data})
    assert "text column words, label column tags" in captured.get()
    assert ("labels look joined by ';'; if a cell may hold several, pass --separator ';'" in captured.get()) is told
