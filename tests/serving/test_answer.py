"""An answer reads logits as the classifier itself does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import SPACES, TEXTS, Made

from rayclf.labels import Floats, ProblemType
from rayclf.serving.answer import Answer


@pytest.mark.parametrize("thresholds", [0.5, 0.01, 0.99])
def test_labels_are_those_of_the_classifier(make: Callable[..., Made], kind: ProblemType, thresholds: float) -> None:
    made = make("bert", kind=kind, thresholds=[thresholds] * len(SPACES[kind]))
    classifier = made.classifier
    answer = Answer.of(classifier, "it", classifier.logits(TEXTS), [1] * len(TEXTS))
    expected = classifier.predict(TEXTS)
    assert answer.held() == [one.labels for one in expected]
    assert [label for label, _ in answer.best()] == [one.label for one in expected]
    assert [score for _, score in answer.best()] == pytest.approx([one.score for one in expected])


LOGITS = st.integers(0, 5).flatmap(lambda n: arrays(np.float32, (n, 4), elements=st.floats(-9, 9, width=32)))


@given(LOGITS, st.floats(0, 1))
def test_one_threshold_for_every_label(logits: Floats, threshold: float) -> None:
    space = SPACES[ProblemType.MULTILABEL]
    probabilities = space.probabilities(logits)
    answer = Answer("it", space, logits, probabilities, space.decide(probabilities, np.float32([0.5] * 4)), [])
    assert answer.with_threshold(0.5).holds.tolist() == answer.holds.tolist()
    assert answer.with_threshold(0.0).holds.all()
    assert answer.with_threshold(threshold).holds.tolist() == (probabilities >= np.float32(threshold)).tolist()


@given(LOGITS, st.floats(0, 1))
def test_one_multiclass_label_or_none(logits: Floats, threshold: float) -> None:
    space = SPACES[ProblemType.MULTICLASS]
    logits = logits[:, :3]
    probabilities = space.probabilities(logits)
    answer = Answer("it", space, logits, probabilities, space.decide(probabilities, np.float32([0.5] * 3)), [])
    held = answer.with_threshold(threshold).held()
    for (label, score), labels in zip(answer.best(), held, strict=True):
        assert labels == ([label] if np.float32(score) >= np.float32(threshold) else [])
