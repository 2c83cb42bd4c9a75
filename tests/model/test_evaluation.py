from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tiny import TEXTS, Made

from rayclf.bootstrap import Outcomes
from rayclf.calibration import TemperatureFit
from rayclf.data.texts import TextSource
from rayclf.errors import DataError, LabelError
from rayclf.labels import ProblemType, dense_targets, sparse_targets
from rayclf.metrics import MetricState
from rayclf.model.engine import Classifier
from rayclf.model.evaluation import Tally, classify, evaluate, new_state
from rayclf.model.samples import WorstMistakes
from rayclf.own_metric_state import OwnMetricState
from rayclf.own_metrics import load_metrics

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
    ids = [str(row) for row in range(count)]
    return pa.table(
        {"id": ids, "text": texts, "positive": sparse_targets(positive), "unknown": sparse_targets(unknown)}
    )


def counted(classifier: Classifier, rows: pa.Table, window: int = 1024, **parts: Any) -> tuple[Tally, np.ndarray]:
    """The tally of rows, a window at a time, and their probabilities."""
    tally = Tally(new_state(classifier), **parts)
    windows = [rows.slice(start, window) for start in range(0, rows.num_rows, window)]
    return tally, np.concatenate([classify(classifier, one, tally) for one in windows])


def same(mine: dict[str, Any], other: dict[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, float):
            assert mine[name] == pytest.approx(value, abs=1e-5, nan_ok=True), name
    assert mine["confusions"] == other["confusions"]


@pytest.mark.parametrize("window", [4, 1024])
def test_rows_are_judged_by_the_one_path(make: Make, kind: ProblemType, window: int) -> None:
    """Over windows, in slices and chunks: the same as all probabilities and targets at once."""
    thresholds = [0.4] * {"binary": 1, "multiclass": 3}.get(kind, 4)
    classifier = make("distilbert", kind=kind, thresholds=thresholds).classifier
    size = len(classifier.space)
    table = labelled(kind, 14, size)
    rows = pa.concat_tables([table.slice(1, 5), table.slice(6, 1), table.slice(7, 6)])
    tally, probabilities = counted(classifier, rows, window)
    expected = classifier.probabilities(rows["text"].to_pylist())
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    whole = MetricState(classifier.space, np.full(size, 0.4, np.float32))
    targets = dense_targets(table["positive"].chunk(0), table["unknown"].chunk(0), size)[1:13]
    whole.update(expected, targets)
    assert tally.compute()["rows"] == 12
    same(tally.compute(), whole.compute())


def test_tallies_of_two_workers_are_one(make: Make, kind: ProblemType) -> None:
    """Metrics before and after calibration, intervals, the temperature, own metrics and mistakes."""
    classifier = make("bert", kind=kind).classifier
    space, rows = classifier.space, labelled(kind, 30, len(classifier.space))
    classifier.calibrate(2.0, [0.4] * len(space))
    thresholds = np.full(len(space), 0.4, np.float32)

    def parts() -> dict[str, Any]:
        return {
            "raw": MetricState(space, np.full(len(space), 0.5, np.float32)),
            "outcomes": Outcomes(space, thresholds),
            "fit": TemperatureFit(space),
            "own": OwnMetricState(load_metrics(["rayclf.sample_metrics:binary_match"]), space),
            "mistakes": WorstMistakes(space, thresholds),
        }

    whole, _ = counted(classifier, rows, **parts())
    mine, _ = counted(classifier, rows.slice(0, 11), **parts())
    theirs, _ = counted(classifier, rows.slice(11), **parts())
    mine.merge(theirs)
    same(mine.compute(), whole.compute())
    assert "binary_match" in mine.compute()
    assert mine.raw is not None
    assert whole.raw is not None
    same(mine.raw.compute(), whole.raw.compute())
    assert mine.raw.compute()["log_loss"] != mine.compute()["log_loss"]
    assert mine.outcomes.confidence_interval("accuracy") == whole.outcomes.confidence_interval("accuracy")
    assert mine.fit.temperature() == pytest.approx(whole.fit.temperature())
    assert [one["id"] for one in mine.mistakes.records()] == [one["id"] for one in whole.mistakes.records()]


def test_rows_of_pairs_are_judged_as_pairs(make: Make) -> None:
    classifier = make("bert", reads=TextSource(text="a", text_pair="b")).classifier
    rows = labelled(ProblemType.MULTICLASS, 7, 3).append_column("text_pair", pa.array(list(reversed(TEXTS[:7]))))
    pairs = list(zip(rows["text"].to_pylist(), rows["text_pair"].to_pylist(), strict=True))
    np.testing.assert_allclose(counted(classifier, rows)[1], classifier.probabilities(pairs), atol=1e-5)


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


def test_cells_of_several_labels_are_parted_as_in_training(make: Make, tmp_path: Path) -> None:
    # Nothing reaches a threshold of 1: of the three rows the one without labels is right, on any machine.
    made = make("bert", kind=ProblemType.MULTILABEL).with_info(separator=";")
    made = made.with_info(thresholds=[1.0] * len(made.info.space))
    artifact = made.save(tmp_path / "artifact")
    one, two, *_ = made.info.space.names
    file = tmp_path / "x.csv"
    file.write_text(f"text,label\nred,{one};{two}\ngreen,{one}\nblue,\n")
    found = evaluate(artifact, file)
    assert [row["support"] for row in found["per_label"]][:2] == [2, 1]
    assert found["interval"]["metric"] == "f1_macro"
    assert found["interval"]["low"] <= found["f1_macro"] <= found["interval"]["high"]
    file.write_text(file.read_text().replace(";", "/").replace("blue,\n", ""))
    with pytest.raises(LabelError, match=f"{one}/{two}"):
        evaluate(artifact, file)
    assert [row["support"] for row in evaluate(artifact, file, separator="/")["per_label"]][:2] == [2, 1]


def test_pairs_are_never_guessed(make: Make, tmp_path: Path) -> None:
    made = make("bert").with_info(reads=TextSource(text="premise", text_pair="hypothesis"))
    artifact = made.save(tmp_path / "artifact")
    file = tmp_path / "x.csv"
    file.write_text(f"text,label\nred,{made.info.space.names[0]}\n")
    with pytest.raises(DataError, match=r"x\.csv: no column 'premise'; --text must name one of: text, label"):
        evaluate(artifact, file)
    file.write_text(f"other,hypothesis,label\nred,blue,{made.info.space.names[0]}\n")
    assert evaluate(artifact, file, text="other")["rows"] == 1
