"""Temperature against scipy's optimum, merged from parts, and where there is none to find."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from rayclf.calibration import TemperatureFit
from rayclf.labels import LabelSpace, ProblemType
from rayclf.metrics import MetricState

KINDS = list(ProblemType)


def space_of(kind, size):
    return LabelSpace(tuple(f"label {i}" for i in range(size)), kind)


def fit_temperature(logits, targets, space):
    """The temperature of logits and targets held as a whole."""
    fit = TemperatureFit(space)
    fit.update(logits, targets)
    return fit.temperature()


def sample(kind, rows=2000, temperature=1.0, seed=0, size=5):
    """Logits that are calibrated at ``temperature``, and targets drawn from their probabilities there."""
    rng = np.random.default_rng(seed)
    space = space_of(kind, 1 if kind is ProblemType.BINARY else size)
    logits = rng.normal(size=(rows, len(space))) * 2
    p = space.probabilities(logits).astype(np.float64)
    if kind is ProblemType.MULTICLASS:
        targets = np.asarray([rng.multinomial(1, row / row.sum()) for row in p]).reshape(p.shape)
    else:
        targets = rng.random(p.shape) < p
    return space, (logits * temperature).astype(np.float32), targets.astype(np.float32)


def loss(space, logits, targets):
    """Mean log loss as a function of log T, with the share of a row that a prior of variance 1 on log T has."""
    found = plain_loss(space, logits, targets)
    return lambda log_t: found(log_t) + log_t**2 / 2 / judged(space, targets)


def judged(space, targets):
    """How many terms the mean log loss has."""
    return len(targets) if space.problem_type is ProblemType.MULTICLASS else int((~np.isnan(targets)).sum())


def plain_loss(space, logits, targets):
    """Mean log loss as a function of log T."""

    def at(log_t):
        x = logits.astype(np.float64) / np.exp(log_t)
        if space.problem_type is ProblemType.MULTICLASS:
            return float((np.logaddexp.reduce(x, axis=1) - x[targets == 1]).mean())
        known = ~np.isnan(targets)
        return float(np.logaddexp(0, np.where(targets == 1, -x, x))[known].mean())

    return at


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.1, 0.3, 0.8, 1.0, 1.7, 4.0, 15.0])
def test_temperature_is_the_optimum_of_the_log_loss(kind, temperature):
    space, logits, targets = sample(kind, 600, temperature)
    best = minimize_scalar(
        loss(space, logits, targets), bounds=np.log([0.05, 20]), method="bounded", options={"xatol": 1e-7}
    )
    found = fit_temperature(logits, targets, space)
    assert found == pytest.approx(np.exp(best.x), rel=0.002)
    assert found == pytest.approx(temperature, rel=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_temperature_lowers_the_calibration_error_and_changes_no_answer(kind):
    space, logits, targets = sample(kind, 4000, 3.0)
    t = fit_temperature(logits[:2000], targets[:2000], space)
    errors = []
    for scale in (1.0, t):
        state = MetricState(space, np.full(len(space), 0.5, np.float32))
        state.update(space.probabilities(logits[2000:] / np.float32(scale)), targets[2000:])
        errors.append(state.compute())
    before, after = errors
    assert after["ece"] < before["ece"] / 2
    assert after["log_loss"] < before["log_loss"]
    assert after["accuracy"] == before["accuracy"]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_merged_are_the_whole(kind):
    space, logits, targets = sample(kind, 300, 2.0)
    if kind is not ProblemType.MULTICLASS:
        targets[::3, 0] = np.nan
    total, start = TemperatureFit(space), 0
    for count in (1, 0, 120, 179):
        part = TemperatureFit(space)
        part.update(logits[start : start + count], targets[start : start + count])
        total.merge(part)
        start += count
    assert total.temperature() == pytest.approx(fit_temperature(logits, targets, space), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_targets_do_not_count(kind):
    space, logits, targets = sample(kind, 400, 2.0)
    expected = fit_temperature(logits[100:], targets[100:], space)
    targets[:100] = np.nan
    logits[:100] = 1e6
    assert fit_temperature(logits, targets, space) == pytest.approx(expected, rel=1e-9)
    fit = TemperatureFit(space)
    fit.update(logits, targets)
    assert fit.rows == 300


@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_keep_temperature_1(kind):
    space, logits, targets = sample(kind, 200, 3.0)
    assert fit_temperature(logits[:19], targets[:19], space) == 1.0
    assert fit_temperature(logits[:0], targets[:0], space) == 1.0
    targets[19:] = np.nan
    assert fit_temperature(logits, targets, space) == 1.0


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(KINDS), st.floats(1e-3, 1e3), st.integers(0, 100))
def test_all_right_makes_surer_within_reason(kind, scale, seed):
    """The loss alone has no minimum there."""
    space, logits, _ = sample(kind, 300, seed=seed)
    logits = (logits * scale).astype(np.float32)
    if kind is ProblemType.MULTICLASS:
        targets = np.eye(len(space), dtype=np.float32)[logits.argmax(1)]
    else:
        targets = (logits > 0).astype(np.float32)
    t = fit_temperature(logits, targets, space)
    assert 0.05 <= t <= 1.0 + 1e-3
    assert t == 0.05 or scale > 0.01
    assert plain_loss(space, logits, targets)(np.log(t)) <= plain_loss(space, logits, targets)(0.0) + 1e-6


def test_chance_among_few_rows_does_not_move_it_far():
    """Logits that say nothing, as after a training that was too short: alone the loss would take a T far from 1."""
    rng = np.random.default_rng(0)
    space = space_of(ProblemType.MULTICLASS, 3)
    logs, alone = [], []
    for _ in range(200):
        logits = (0.05 * rng.normal(size=(20, 3))).astype(np.float32)
        targets = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 20)]
        logs.append(np.log(fit_temperature(logits, targets, space)))
        best = minimize_scalar(plain_loss(space, logits, targets), bounds=np.log([0.05, 20]), method="bounded")
        alone.append(best.x)
    assert np.abs(logs).mean() < np.abs(alone).mean() / 4
    assert np.quantile(np.abs(logs), 0.95) < np.log(2.5)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_that_mean_the_opposite_get_the_hottest_temperature(kind):
    space, logits, targets = sample(kind, 500)
    assert fit_temperature(-logits, targets, space) == 20.0


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(KINDS), st.floats(-6, 6), st.integers(20, 60), st.integers(0, 1000))
def test_temperature_is_never_out_of_range_and_never_worse_than_1(kind, log_scale, rows, seed):
    space, logits, targets = sample(kind, rows, seed=seed)
    logits = (logits * np.exp(log_scale)).astype(np.float32)
    t = fit_temperature(logits, targets, space)
    assert 0.05 <= t <= 20
    at = loss(space, logits, targets)
    assert at(np.log(t)) <= at(0.0) + 1e-6


def test_a_fit_does_not_grow_with_the_rows():
    space, logits, targets = sample(ProblemType.MULTILABEL, 500)
    fit = TemperatureFit(space)
    sizes = []
    for _ in range(3):
        fit.update(logits, targets)
        sizes.append(sum(v.nbytes for v in vars(fit).values() if isinstance(v, np.ndarray)))
    assert sizes == [400, 400, 400]


def test_25000_labels():
    rng = np.random.default_rng(0)
    for kind in (ProblemType.MULTICLASS, ProblemType.MULTILABEL):
        space = space_of(kind, 25_000)
        targets = np.zeros((30, 25_000), np.float32)
        targets[np.arange(30), rng.integers(0, 25_000, 30)] = 1
        logits = (rng.normal(size=targets.shape) + 8 * targets).astype(np.float32)
        assert 0.05 < fit_temperature(logits, targets, space) <= 20
