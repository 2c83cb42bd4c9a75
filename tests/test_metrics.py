"""Streaming metrics against scikit-learn, on whole and parted data, with unknown targets, and in bounded memory."""
# tests are told by their names

import json
import math
import tracemalloc

import numpy as np
import pytest
from sklearn import metrics as sk

from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics import LOWER_IS_BETTER, METRICS, MetricState, metrics_of, rank_of, scores

AVERAGES = ("macro", "micro", "weighted")


def space_of(kind, size):
    return LabelSpace(tuple(f"label {i}" for i in range(size)), kind)


def fresh(space, threshold=0.5):
    return MetricState(space, np.full(len(space), threshold, np.float32))


def counted(space, probabilities, targets, sizes=None):
    """Metrics of the rows in batches of the given sizes, each batch counted by a worker of its own and merged."""
    total, start = fresh(space), 0
    for size in sizes or [len(targets)]:
        part = fresh(space)
        part.update(probabilities[start : start + size], targets[start : start + size])
        total.merge(part)
        start += size
    assert start == len(targets)
    return total.compute()


def sample(kind, size, rows=3000, seed=0):
    """Probabilities that are right more often than not, and targets."""
    rng = np.random.default_rng(seed)
    if kind is ProblemType.MULTICLASS:
        truth = rng.choice(size, rows, p=np.arange(1, size + 1) / np.arange(1, size + 1).sum())
        targets = np.eye(size, dtype=np.float32)[truth]
    else:
        targets = (rng.random((rows, size)) < np.linspace(0.1, 0.6, size)).astype(np.float32)
    logits = (rng.normal(size=(rows, size)) * 2 + 1.5 * targets).astype(np.float32)
    return space_of(kind, size).probabilities(logits), targets


def check_averages(found, truth, guess, **options):
    for average in AVERAGES:
        precision, recall, f1, _ = sk.precision_recall_fscore_support(
            truth, guess, average=average, zero_division=0, **options
        )
        assert found[f"precision_{average}"] == pytest.approx(precision, abs=1e-12)
        assert found[f"recall_{average}"] == pytest.approx(recall, abs=1e-12)
        assert found[f"f1_{average}"] == pytest.approx(f1, abs=1e-12)


def check_labels(found, truth, guess, probabilities, targets, area_error):
    rows = sk.precision_recall_fscore_support(truth, guess, zero_division=0, average=None)
    for position, (row, *values) in enumerate(zip(found["per_label"], *rows, strict=True)):
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx(values, abs=1e-12)
        area = sk.roc_auc_score(targets[:, position], probabilities[:, position])
        assert row["roc_auc"] == pytest.approx(area, abs=area_error)
        precision = sk.average_precision_score(targets[:, position], probabilities[:, position])
        assert row["pr_auc"] == pytest.approx(precision, abs=area_error)


def calibration_error(confidence, right):
    """The expected calibration error as the papers write it: a sum over 15 bins."""
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


@pytest.fixture(params=["exact", "by histogram"])
def area_error(request, monkeypatch):
    """By how much areas may differ: not at all as long as probabilities are few enough to be kept."""
    if request.param == "exact":
        return 1e-6  # of probabilities in float32
    monkeypatch.setattr(scores, "_MOST", 0)
    return 1e-3


def test_binary_against_scikit_learn(area_error):
    probabilities, targets = sample(ProblemType.BINARY, 1)
    found = counted(space_of(ProblemType.BINARY, 1), probabilities, targets)
    truth, guess = targets[:, 0], probabilities[:, 0] >= 0.5
    assert found["rows"] == len(truth)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, guess))
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, probabilities[:, 0]), abs=area_error)
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, probabilities[:, 0].astype(float)), abs=1e-6)
    assert found["pr_auc"] == pytest.approx(sk.average_precision_score(truth, probabilities[:, 0]), abs=area_error)
    of_negation = sk.average_precision_score(1 - truth, 1 - probabilities[:, 0])
    assert [row["pr_auc"] for row in found["per_label"]] == pytest.approx(
        [found["pr_auc"], of_negation], abs=area_error
    )
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, guess))
    assert found["ece"] == pytest.approx(calibration_error(probabilities[:, 0].astype(float), truth), abs=1e-6)
    check_averages(found, truth == 1, guess)  # over both classes, the label and its negation
    rows = sk.precision_recall_fscore_support(truth == 1, guess, labels=[True, False])
    for row, *values in zip(found["per_label"], *rows, strict=True):
        assert [row["precision"], row["recall"], row["f1"], row["support"]] == pytest.approx(values, abs=1e-12)
    space = space_of(ProblemType.BINARY, 1)
    assert [row["label"] for row in found["per_label"]] == [space.names[0], space.negative]


def test_multiclass_against_scikit_learn(area_error):
    probabilities, targets = sample(ProblemType.MULTICLASS, 6)
    found = counted(space_of(ProblemType.MULTICLASS, 6), probabilities, targets)
    truth, guess, exact = targets.argmax(1), probabilities.argmax(1), probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, guess))
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, exact, multi_class="ovr"), abs=area_error)
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, exact), abs=1e-6)
    assert found["pr_auc"] == pytest.approx(sk.average_precision_score(targets, exact), abs=area_error)
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, guess))
    assert found["ece"] == pytest.approx(calibration_error(exact.max(1), truth == guess), abs=1e-6)
    check_averages(found, truth, guess)
    check_labels(found, truth, guess, probabilities, targets, area_error)
    matrix = sk.confusion_matrix(truth, guess)
    np.fill_diagonal(matrix, 0)
    top = found["confusions"]
    assert len(top) == 20
    assert [entry["rows"] for entry in top] == sorted(matrix.ravel().tolist(), reverse=True)[:20]
    for entry in top:
        assert entry["rows"] == matrix[int(entry["actual"][6:]), int(entry["predicted"][6:])]


def test_multiclass_with_labels_that_never_occur():
    """Means run over the labels seen in targets or predictions, as in scikit-learn."""
    targets = np.eye(5, dtype=np.float32)[[0, 0, 1, 1, 3]]
    probabilities = np.eye(5, dtype=np.float32)[[0, 1, 1, 1, 2]] * 0.6 + 0.08
    found = counted(space_of(ProblemType.MULTICLASS, 5), probabilities, targets)
    check_averages(found, targets.argmax(1), probabilities.argmax(1))
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert math.isnan(found["per_label"][4]["roc_auc"])
    assert not math.isnan(found["roc_auc"])


def test_multilabel_against_scikit_learn(area_error):
    probabilities, targets = sample(ProblemType.MULTILABEL, 5)
    found = counted(space_of(ProblemType.MULTILABEL, 5), probabilities, targets)
    guess = probabilities >= 0.5
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(targets, guess))
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(targets, probabilities), abs=area_error)
    assert found["pr_auc"] == pytest.approx(sk.average_precision_score(targets, probabilities), abs=area_error)
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(targets.ravel() == 1, guess.ravel()))
    assert found["hamming_loss"] == pytest.approx(sk.hamming_loss(targets, guess))
    assert found["subset_accuracy"] == found["accuracy"]
    assert found["ece"] == pytest.approx(
        calibration_error(probabilities.ravel().astype(float), targets.ravel()), abs=1e-6
    )
    rows = targets.any(axis=1)  # those with a true label
    assert found["lrap"] == pytest.approx(sk.label_ranking_average_precision_score(targets[rows], probabilities[rows]))
    losses = [sk.log_loss(targets[:, i], probabilities[:, i].astype(float)) for i in range(5)]
    assert found["log_loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    check_averages(found, targets, guess)
    check_labels(found, targets, guess, probabilities, targets, area_error)
    assert "balanced_accuracy" not in found


def test_unknown_targets_are_masked_out_of_every_metric(area_error):
    probabilities, targets = sample(ProblemType.MULTILABEL, 4)
    rng = np.random.default_rng(1)
    targets[rng.random(targets.shape) < 0.4] = np.nan
    targets[:50] = np.nan  # rows about which nothing is known
    found = counted(space_of(ProblemType.MULTILABEL, 4), probabilities, targets)
    losses, known_rows = [], ~np.isnan(targets).all(1)
    for position, row in enumerate(found["per_label"]):
        known = ~np.isnan(targets[:, position])
        truth, p = targets[known, position], probabilities[known, position]
        values = sk.precision_recall_fscore_support(truth, p >= 0.5, average="binary")[:3]
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(values, abs=1e-12)
        assert row["support"] == truth.sum()
        assert row["roc_auc"] == pytest.approx(sk.roc_auc_score(truth, p), abs=area_error)
        losses.append(sk.log_loss(truth, p.astype(float), normalize=False))
    assert found["log_loss"] == pytest.approx(sum(losses) / (~np.isnan(targets)).sum(), abs=1e-6)
    known = ~np.isnan(targets)
    truth, p = targets[known] == 1, probabilities[known]
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, p >= 0.5))
    assert found["hamming_loss"] == pytest.approx((truth != (p >= 0.5)).mean())
    assert found["ece"] == pytest.approx(calibration_error(p.astype(float), truth), abs=1e-6)
    right = ((probabilities >= 0.5) == (targets == 1)) | np.isnan(targets)
    assert found["accuracy"] == pytest.approx(right[known_rows].all(1).mean())
    assert found["rows"] == len(targets)
    changed = np.where(np.isnan(targets), 1 - probabilities, probabilities)
    again = counted(space_of(ProblemType.MULTILABEL, 4), changed, targets)
    assert plain(again) == plain(found)


def test_rows_without_a_known_target_do_not_raise_accuracy():
    targets = np.asarray([[np.nan], [1.0]], np.float32)
    found = counted(space_of(ProblemType.BINARY, 1), np.asarray([[0.9], [0.1]], np.float32), targets)
    assert found["accuracy"] == 0.0


def test_multiclass_rows_without_a_label_do_not_count():
    probabilities, targets = sample(ProblemType.MULTICLASS, 12, rows=200)
    space = space_of(ProblemType.MULTICLASS, 12)
    expected = counted(space, probabilities[50:], targets[50:])
    targets[:50] = np.nan
    found = counted(space, probabilities, targets)
    assert found.pop("rows") == expected.pop("rows") + 50
    assert plain(found) == plain(expected)


@pytest.mark.parametrize("kind", list(ProblemType))
def test_one_answer_for_all_has_no_correlation(kind):
    size = 1 if kind is ProblemType.BINARY else 3
    _, targets = sample(kind, size, rows=50)
    found = counted(space_of(kind, size), np.full(targets.shape, 0.1, np.float32), targets)
    assert found["mcc"] == 0.0


def plain(metrics):
    """Metrics in a form that compares, NaN equal to itself."""
    return repr({name: round(v, 9) if isinstance(v, float) else v for name, v in metrics.items()})


@pytest.mark.parametrize("kind", list(ProblemType))
@pytest.mark.parametrize("sizes", [[700], [1] * 20 + [0, 680], [333, 367]])
def test_batches_and_merged_parts_equal_the_whole(kind, sizes):
    size = 1 if kind is ProblemType.BINARY else 4
    probabilities, targets = sample(kind, size, rows=700)
    if kind is not ProblemType.MULTICLASS:
        targets[::3, 0] = np.nan
    space = space_of(kind, size)
    whole = counted(space, probabilities, targets)
    assert plain(counted(space, probabilities, targets, sizes)) == plain(whole)
    stream, start = fresh(space), 0
    for count in sizes:
        stream.update(probabilities[start : start + count], targets[start : start + count])
        start += count
    assert plain(stream.compute()) == plain(whole)


@pytest.mark.parametrize("kind", list(ProblemType))
def test_no_rows(kind):
    found = counted(
        space_of(kind, 1 if kind is ProblemType.BINARY else 3), *sample(kind, 3 - 2 * (kind == "binary"), 0)
    )
    assert found["rows"] == 0
    assert math.isnan(found["accuracy"])
    assert math.isnan(found["log_loss"])
    for name in ("roc_auc", "pr_auc", "mcc", "ece"):
        assert math.isnan(found[name])


@pytest.mark.parametrize("kind", [ProblemType.MULTICLASS, ProblemType.MULTILABEL])
def test_many_labels_need_no_square_array(kind):
    labels, rows = 5000, 64
    space = space_of(kind, labels)
    rng = np.random.default_rng(0)
    probabilities = space.probabilities(rng.normal(size=(rows, labels)).astype(np.float32))
    targets = np.zeros((rows, labels), np.float32)
    targets[np.arange(rows), rng.integers(0, labels, rows)] = 1
    tracemalloc.start()
    state = fresh(space)
    for _ in range(2):
        state.update(probabilities, targets)
    state.compute()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    held = sum(value.nbytes for value in vars(state).values() if isinstance(value, np.ndarray))
    assert held < labels * labels * 8 / 2
    assert peak < labels * labels * 8
    assert len(state.confusions) <= rows
    assert max(value.size for value in vars(state).values() if isinstance(value, np.ndarray)) <= 2 * 2**22


def test_state_grows_in_line_with_labels():
    def held(labels):
        state = fresh(space_of(ProblemType.MULTILABEL, labels))
        return sum(value.nbytes for value in vars(state).values() if isinstance(value, np.ndarray))

    assert held(100_000) <= 110 * 2**20


def test_thresholds_of_each_label():
    state = MetricState(space_of(ProblemType.MULTILABEL, 2), np.asarray([0.2, 0.8], np.float32))
    state.update(np.asarray([[0.3, 0.7]], np.float32), np.asarray([[1, 0]], np.float32))
    assert state.compute()["accuracy"] == 1.0


@pytest.mark.parametrize(("kind", "size"), [("binary", 1), ("multiclass", 3), ("multiclass", 12), ("multilabel", 1),
                                            ("multilabel", 4), ("multilabel", 12)])  # fmt: skip
def test_the_metrics_of_a_label_space_are_those_computed(kind, size):
    space = space_of(ProblemType(kind), size)
    found = counted(space, *sample(space.problem_type, size, 50))
    names = metrics_of(space)
    assert set(names) == found.keys() - {"rows", "per_label", "confusions"}
    assert all(isinstance(found[name], float) for name in names)
    assert set(names) <= set(METRICS)
    json.dumps(found)


def test_every_metric_belongs_to_a_label_space():
    spaces = space_of(ProblemType.MULTICLASS, 12), space_of(ProblemType.MULTILABEL, 12)
    assert {name for space in spaces for name in metrics_of(space)} == set(METRICS)
    assert set(LOWER_IS_BETTER) <= set(METRICS)


def test_rank_of_is_more_for_better():
    assert rank_of("f1_macro", {"f1_macro": 0.4}) == 0.4
    assert rank_of("ece", {"ece": 0.4}) == -0.4
    assert rank_of("roc_auc", {"roc_auc": math.nan}) == rank_of("roc_auc", {"roc_auc": None}) == -math.inf


def curves_of(kind, size, rows=3000, most_labels=8):
    space = space_of(kind, size)
    state = MetricState(space, np.linspace(0.3, 0.6, size).astype(np.float32))
    probabilities, targets = sample(kind, size, rows)
    state.update(probabilities, targets)
    return state.curves(most_labels), probabilities, targets, state


def area(points):
    x, y = np.asarray(points).T
    return float(((x[1:] - x[:-1]) * (y[1:] + y[:-1]) / 2).sum())


@pytest.mark.parametrize(("kind", "size"), [("binary", 1), ("multiclass", 6), ("multilabel", 5)])
def test_curves_have_the_areas_of_scikit_learn(kind, size):
    curves, probabilities, targets, _ = curves_of(ProblemType(kind), size)
    names = [f"label {i}" for i in np.argsort(-targets.sum(0), kind="stable")]
    expected = names + ["micro average"] * (size > 1)
    assert [curve["label"] for curve in curves["roc"]] == [curve["label"] for curve in curves["pr"]] == expected
    for roc, pr in zip(curves["roc"], curves["pr"], strict=True):
        label = slice(None) if roc["label"] == "micro average" else int(roc["label"][6:])
        truth, p = targets[:, label].ravel(), probabilities[:, label].ravel()
        assert area(roc["points"]) == pytest.approx(sk.roc_auc_score(truth, p), abs=0.005)
        assert area(pr["points"]) == pytest.approx(sk.average_precision_score(truth, p), abs=0.02)
        assert roc["points"][0] == [0, 0]
        assert roc["points"][-1] == [pr["points"][-1][0], 1] == [1, 1]
        for curve in (roc, pr):
            assert 20 < len(curve["points"]) <= 60
            assert curve["points"] == sorted(curve["points"], key=lambda point: point[0])
    json.dumps(curves, allow_nan=False)


def test_threshold_curves_are_f1_at_each_threshold():
    curves, probabilities, targets, state = curves_of(ProblemType.MULTILABEL, 3)
    for curve in curves["thresholds"]:
        label = int(curve["label"][6:])
        assert curve["chosen"] == pytest.approx(state.thresholds[label])
        (there,) = (f1 for threshold, f1 in curve["points"] if threshold == pytest.approx(curve["chosen"], abs=1e-6))
        assert there == pytest.approx(state.compute()["per_label"][label]["f1"], abs=1e-6)
        assert len(curve["points"]) <= 60
        for threshold, f1 in curve["points"][5:-5]:
            guess = probabilities[:, label] >= threshold
            assert f1 == pytest.approx(sk.f1_score(targets[:, label], guess), abs=2e-3)
    assert curves_of(ProblemType.MULTICLASS, 3)[0]["thresholds"] == []


def test_reliability_is_rows_by_confidence():
    curves, probabilities, targets, state = curves_of(ProblemType.MULTICLASS, 4)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets.argmax(1)
    bins = curves["reliability"]
    assert sum(rows for _, _, rows in bins) == len(targets)
    assert sum(abs(c - a) * rows for c, a, rows in bins) / len(targets) == pytest.approx(state.compute()["ece"])
    inside = (confidence >= 0.6) & (confidence < 2 / 3)
    bin_ = next(entry for entry in bins if 0.6 < entry[0] < 2 / 3)
    assert bin_ == pytest.approx([confidence[inside].mean(), right[inside].mean(), inside.sum()])


def test_curves_of_some_labels_and_of_none():
    curves, _, targets, _ = curves_of(ProblemType.MULTILABEL, 12, most_labels=3)
    top = [f"label {i}" for i in np.argsort(-targets.sum(0), kind="stable")[:3]]
    assert [curve["label"] for curve in curves["roc"]] == [*top, "micro average"]
    assert [curve["label"] for curve in curves["thresholds"]] == top
    for kind in ProblemType:
        empty = fresh(space_of(kind, 1 if kind is ProblemType.BINARY else 3)).curves()
        assert empty == {"roc": [], "pr": [], "thresholds": [], "reliability": []}
    one = fresh(space_of(ProblemType.MULTILABEL, 2))
    one.update(np.asarray([[0.9, 0.2]], np.float32), np.asarray([[1, np.nan]], np.float32))
    found = one.curves()
    assert found["roc"] == []
    assert [curve["label"] for curve in found["pr"]] == ["label 0", "micro average"]
    assert found["pr"][0]["points"] == [[0, 1], [1, 1]]
