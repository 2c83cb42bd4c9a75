from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny import TEXTS, Made

from rayclf.data.texts import TextSource
from rayclf.errors import DataError
from rayclf.labels import ProblemType, dense_targets, sparse_targets
from rayclf.metrics import MetricState
from rayclf.model import evaluation
from rayclf.model.evaluation import evaluate, evaluate_rows, score_rows

Make = Callable[..., Made]


def labelled(kind: ProblemType, count: int, size: int) -> pa.Table:
    random = np.random.default_rng(5)
    positive, unknown = [], []
    for row in range(count):
        if kind is ProblemType.MULTICLASS:
            positive.append([row % size])
            unknown.append([])
        else:
            state = random.integers(0, 3, size)
            positive.append(np.flatnonzero(state == 1).tolist())
            unknown.append(np.flatnonzero(state == 2).tolist())
    texts = [f"{TEXTS[row % len(TEXTS)]} {row}" for row in range(count)]
    return pa.table({"text": texts, "positive": sparse_targets(positive), "unknown": sparse_targets(unknown)})


@pytest.mark.parametrize("window", [4, 1024])
def test_rows_are_judged_by_the_one_path(
    make: Make, kind: ProblemType, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over windows, in slices and chunks: the same as all probabilities and targets at once."""
    monkeypatch.setattr(evaluation, "_WINDOW", window)
    classifier = make(
        "distilbert", kind=kind, thresholds=[0.4] * {"binary": 1, "multiclass": 3}.get(kind, 4)
    ).classifier
    size = len(classifier.space)
    table = labelled(kind, 14, size)
    rows = pa.concat_tables([table.slice(1, 5), table.slice(6, 1), table.slice(7, 6)])
    done: list[int] = []
    state, probabilities = evaluate_rows(classifier, rows, done.append)
    expected = classifier.probabilities(rows["text"].to_pylist())
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert sum(done) == rows.num_rows == 12
    whole = MetricState(classifier.space, np.full(size, 0.4, np.float32))
    targets = dense_targets(table["positive"].chunk(0), table["unknown"].chunk(0), size)[1:13]
    whole.update(expected, targets)
    got, wanted = state.compute(), whole.compute()
    assert got["rows"] == 12
    for name, value in wanted.items():
        if isinstance(value, float):
            assert got[name] == pytest.approx(value, abs=1e-5, nan_ok=True), name
    assert got["confusions"] == wanted["confusions"]


def test_windows_come_in_order(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "_WINDOW", 3)
    rows = labelled(ProblemType.MULTICLASS, 7, 3)
    parts = [window for window, _ in score_rows(make("bert").classifier, rows)]
    assert [part.num_rows for part in parts] == [3, 3, 1]
    assert pa.concat_tables(parts)["text"].to_pylist() == rows["text"].to_pylist()


def test_rows_of_pairs_are_judged_as_pairs(make: Make) -> None:
    classifier = make("bert", reads=TextSource(text="a", text_pair="b")).classifier
    rows = labelled(ProblemType.MULTICLASS, 7, 3).append_column("text_pair", pa.array(list(reversed(TEXTS[:7]))))
    pairs = list(zip(rows["text"].to_pylist(), rows["text_pair"].to_pylist(), strict=True))
    np.testing.assert_allclose(evaluate_rows(classifier, rows)[1], classifier.probabilities(pairs), atol=1e-5)


def test_no_rows(make: Make) -> None:
    classifier = make("bert").classifier
    state, probabilities = evaluate_rows(classifier, labelled(ProblemType.MULTICLASS, 2, 3).slice(0, 0))
    assert probabilities.shape == (0, 3)
    assert state.rows == 0


def test_a_file_is_judged_as_its_rows(make: Make, tmp_path: Path) -> None:
    made = make("bert", reads=TextSource(text="body"))
    artifact = made.save(tmp_path / "artifact")
    labels = [made.info.space.names[row % 3] for row in range(len(TEXTS))]
    file = tmp_path / "data.jsonl"
    rows = zip(TEXTS, labels, strict=True)
    file.write_text("\n".join(f'{{"text": "no", "body": "{text}", "label": "{label}"}}' for text, label in rows))
    seen: list[tuple[int, int]] = []
    metrics = evaluate(artifact, file, label="label", device="cpu", on_progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (len(TEXTS), len(TEXTS))
    best = [prediction.label for prediction in made.classifier.predict(TEXTS)]
    assert metrics["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(best, labels, strict=True)]))
    with pytest.raises(DataError):
        evaluate(artifact, tmp_path / "missing.csv")
