"""The shipped metrics keep their bounds: 1 for what is perfect and for nothing else, 0 for what is all wrong."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf.own_metrics import load_metrics
from rayclf.sample_metrics import binary_match, multilabel_match

METRICS = pytest.mark.parametrize("metric", [binary_match, multilabel_match])
# Steps of a thousandth: 1 − 1e-300 is 1 in floating point.
ROW = st.dictionaries(
    st.text(max_size=3), st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 1000).map(lambda k: k / 1000)),
    min_size=1, max_size=30,
)  # fmt: skip


@METRICS
@given(row=ROW)
def test_bounds(metric, row) -> None:  # type: ignore[no-untyped-def]
    expected = {name: target for name, (target, _) in row.items()}
    predicted = {name: chance for name, (_, chance) in row.items()}
    value = metric("a text", expected, predicted | {"unknown label": 0.3})
    assert 0 <= value <= 1
    assert (value == 1) == (predicted == expected)
    assert (value == 0) == all(chance == 1 - target for target, chance in row.values())
    opposite = metric("", {name: 1 - target for name, target in expected.items()}, predicted)
    assert value + opposite == pytest.approx(1) or metric is multilabel_match


@METRICS
@given(row=ROW, data=st.data())
def test_a_probability_nearer_to_its_target_never_lowers_the_match(metric, row, data) -> None:  # type: ignore[no-untyped-def]
    expected = {name: target for name, (target, _) in row.items()}
    predicted = {name: chance for name, (_, chance) in row.items()}
    moved = data.draw(st.sampled_from(sorted(row)))
    nearer = predicted | {moved: (predicted[moved] + expected[moved]) / 2}
    assert metric("", expected, nearer) >= metric("", expected, predicted)


def test_their_values() -> None:
    expected = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    predicted = {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0, "e": 0.9}
    assert binary_match("", expected, predicted) == 0.75
    assert multilabel_match("", expected, predicted) == 0.5
    assert multilabel_match("", {"a": 1.0}, {"a": 0.25}) == 0.25
    assert multilabel_match("", {"b": 0.0}, {"b": 0.25}) == 0.75


@METRICS
def test_a_row_without_known_targets_has_no_value(metric) -> None:  # type: ignore[no-untyped-def]
    assert math.isnan(metric("", {}, {"a": 0.5}))


def test_they_load_as_own_metrics() -> None:
    specs = [f"rayclf.sample_metrics:{name}" for name in ("binary_match", "multilabel_match")]
    assert [metric.form for metric in load_metrics(specs)] == ["row", "row"]
