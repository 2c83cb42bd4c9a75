"""Samples stay the same rows, and the worst mistakes are those of a full sort, however the rows are shared out."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPACES

from rayclf.labels import Floats, LabelSpace, ProblemType, dense_targets, sparse_targets
from rayclf.model.samples import WorstMistakes, choose_samples, sample_records

steady = settings(deadline=None, derandomize=True)
MULTICLASS = LabelSpace(("cat", "dog", "eel"), ProblemType.MULTICLASS)
MULTILABEL = LabelSpace(("cat", "dog", "eel"), ProblemType.MULTILABEL)
BINARY = LabelSpace(("spam",), ProblemType.BINARY)
HALF = np.full(3, 0.5, np.float32)


def table(positive: list[list[int]], unknown: list[list[int]] | None = None, **more: list[str]) -> pa.Table:
    size = len(positive)
    columns = {"id": [f"row{i}" for i in range(size)], "text": [f"text {i}" for i in range(size)], **more}
    targets = {"positive": sparse_targets(positive), "unknown": sparse_targets(unknown or [[]] * size)}
    return pa.table(columns | targets)


def floats(*rows: tuple[float, ...]) -> Floats:
    return np.array(rows, np.float32)


@given(st.lists(st.text(max_size=5), unique=True, max_size=40), st.integers(0, 50), st.randoms())
def test_the_same_ids_give_the_same_rows(ids: list[str], n: int, mixer: random.Random) -> None:
    chosen = choose_samples(ids, n)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(n, len(ids))
    mixed = mixer.sample(ids, len(ids))
    assert {mixed[i] for i in choose_samples(mixed, n)} == {ids[i] for i in chosen}
    more = choose_samples([*ids, "one more row"], n)
    assert len({*chosen} - {*more}) <= 1


def test_choice_is_the_same_on_any_machine() -> None:
    assert choose_samples([f"row{i}" for i in range(100)], 3) == choose_samples([f"row{i}" for i in range(100)], 3)
    assert choose_samples([f"row{i}" for i in range(1000)], 5) != [0, 1, 2, 3, 4]
    assert choose_samples(["a", "a", "a"], 2) == [0, 1]


def test_a_sample_has_the_prediction_beside_the_expectation() -> None:
    rows = table([[0], [2]])
    first, second = sample_records(rows, floats((0.2, 0.7, 0.1), (0, 0, 1)), MULTICLASS, HALF)
    assert first == {
        "id": "row0",
        "expected": ["cat"],
        "predicted": ["dog"],
        "probabilities": {"dog": 0.7, "cat": 0.2, "eel": 0.1},
    }
    assert list(first["probabilities"]) == ["dog", "cat", "eel"]
    assert (second["expected"], second["predicted"]) == (["eel"], ["eel"])


def test_unknown_labels_are_not_expected_and_a_binary_task_has_its_negation() -> None:
    (row,) = sample_records(table([[1]], [[0]]), floats((0.9, 0.2, 0.6)), MULTILABEL, HALF)
    assert (row["expected"], row["predicted"]) == (["dog"], ["cat", "eel"])
    three = sample_records(table([[0], [], []], [[], [], [0]]), floats((0.2,), (0.8,), (0.5,)), BINARY, HALF[:1])
    told = [(row["expected"], row["predicted"]) for row in three]
    assert told == [(["spam"], ["not spam"]), (["not spam"], ["spam"]), ([], ["spam"])]


def test_texts_are_told_only_when_asked_and_long_ones_cut() -> None:
    rows = table([[0], [1]], text=["x" * 5000, "short"], text_pair=["one", "two"])
    chances = floats((0, 1, 0), (1, 0, 0))
    for texts, names in ((False, set()), (True, {"text", "text_pair"})):
        worst = WorstMistakes(MULTICLASS, HALF, texts)
        worst.update(rows, chances)
        for record in (*sample_records(rows, chances, MULTICLASS, HALF, texts), *worst.records()):
            assert record.keys() & {"text", "text_pair"} == names
            assert texts or "x" not in json.dumps(record).replace("expected", "")
    first, second = sample_records(rows, chances, MULTICLASS, HALF, True)
    assert first["text"] == "x" * 1000 + "…"
    assert (second["text"], second["text_pair"]) == ("short", "two")


def test_thousands_of_predicted_labels_are_cut_to_the_most_probable() -> None:
    space = LabelSpace(tuple(f"l{i}" for i in range(3000)), ProblemType.MULTILABEL)
    chances = np.linspace(0.5, 1, 3000, dtype=np.float32)[None]
    (row,) = sample_records(table([[7]]), chances, space, np.full(3000, 0.5, np.float32))
    assert row["predicted"] == [f"l{i}" for i in range(2999, 2979, -1)]
    assert list(row["probabilities"]) == row["predicted"][:5]


@pytest.mark.parametrize(
    ("space", "positive", "unknown", "chances", "score"),
    [
        (MULTICLASS, [0], [], (0.3, 0.6, 0.1), 0.6),
        (MULTICLASS, [1], [], (0.3, 0.6, 0.1), None),
        (BINARY, [0], [], (0.1,), 0.9),
        (BINARY, [], [], (0.7,), 0.7),
        (BINARY, [], [0], (0.7,), None),
        (MULTILABEL, [0], [], (0.4, 0.8, 0.1), 0.8),
        (MULTILABEL, [0], [], (0.1, 0.8, 0.1), 0.9),
        (MULTILABEL, [0], [1], (0.4, 0.8, 0.1), 0.6),
        (MULTILABEL, [0], [], (0.6, 0.4, 0.4), None),
    ],
)
def test_the_score_is_how_sure_the_wrong_answer_was(
    space: LabelSpace, positive: list[int], unknown: list[int], chances: tuple[float, ...], score: float | None
) -> None:
    worst = WorstMistakes(space, HALF[: len(space)])
    worst.update(table([positive], [unknown]), floats(chances))
    assert [record["score"] for record in worst.records()] == ([] if score is None else [pytest.approx(score)])


@steady
@given(st.data(), st.sampled_from(list(ProblemType)), st.integers(1, 4), st.integers(1, 3))
def test_workers_find_the_worst_of_all(data: st.DataObject, kind: ProblemType, workers: int, keep: int) -> None:
    space = SPACES[kind]
    size, rows = len(space), data.draw(st.integers(0, 12))
    seed = data.draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    chances = rng.integers(0, 5, (rows, size)).astype(np.float32) / 4  # with ties
    if kind is ProblemType.MULTICLASS:
        positive: list[list[int]] = [[int(rng.integers(size))] for _ in range(rows)]
        unknown: list[list[int]] = [[]] * rows
    else:
        states = rng.integers(0, 3, (rows, size))
        positive, unknown = ([np.flatnonzero(row == s).tolist() for row in states] for s in (1, 2))
    whole = table(positive, unknown)
    thresholds = np.full(size, 0.5, np.float32)
    parts = []
    for worker in range(workers):
        mine = np.arange(worker, rows, workers)
        part = WorstMistakes(space, thresholds, keep=keep)
        for batch in (mine[::2], mine[1::2]):
            part.update(whole.take(pa.array(batch, pa.int64())), chances[batch])
        parts.append(pickle.loads(pickle.dumps(part)))
    for part in parts[1:]:
        parts[0].merge(part)
    targets = dense_targets(sparse_targets(positive), sparse_targets(unknown), size)
    holds = space.decide(chances, thresholds)
    expected = []
    for i in range(rows):
        wrong = [
            abs(float(targets[i, k]) - float(chances[i, k]))
            for k in range(size)
            if not np.isnan(targets[i, k]) and holds[i, k] != (targets[i, k] == 1)
            if kind is not ProblemType.MULTICLASS or holds[i, k]
        ]
        if wrong:
            expected.append((-max(wrong), f"row{i}"))
    found = parts[0].records()
    assert [(-record["score"], record["id"]) for record in found] == sorted(expected)[:keep]
    assert json.loads(json.dumps(found)) == found


def test_at_most_fifty_mistakes_are_kept() -> None:
    rows = 400
    worst = WorstMistakes(BINARY, HALF[:1])
    worst.update(table([[0]] * rows), np.linspace(0, 0.4, rows, dtype=np.float32)[:, None])
    assert [record["id"] for record in worst.records()] == [f"row{i}" for i in range(50)]
