"""What a key, a limit and the schedule forbid, and that all of it is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint
from prometheus_client.parser import text_string_to_metric_families
from tiny import Made

from rayclf.serving.api_errors import ApiError, unavailable
from rayclf.serving.guarded import Guarded, asking
from rayclf.serving.keys import Key
from rayclf.serving.limits import Limits
from rayclf.serving.metrics import Metrics
from rayclf.serving.schedule import Schedule

SCHEDULE = Schedule.parse("Mon-Fri 08:00-20:00 Europe/Berlin")
SATURDAY = datetime(2026, 3, 28, 12, tzinfo=UTC)  # the clocks change on Sunday
MONDAY = datetime(2026, 3, 30, 6, tzinfo=UTC)  # 08:00 in Berlin


@pytest.fixture
def inner(make: Callable[..., Made]) -> FakeEndpoint:
    return FakeEndpoint(it=make("bert"), other=make("bert"))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def key() -> Iterator[None]:
    """The request's key is for the model ``other`` alone."""
    made = Key(id="k", name="k", models=("other",), created=MONDAY, digest="0" * 64)
    token = asking.set(made)
    yield
    asking.reset(token)


def refusal(call: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        asyncio.run(call)
    return caught.value


def counted(metrics: Metrics, name: str) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        "".join(s.labels.values()): s.value for f in families for s in f.samples if s.name == f"rayclf_{name}_total"
    }


def test_without_a_key_all_is_let_through(inner: FakeEndpoint, metrics: Metrics) -> None:
    guarded = Guarded(inner, Limits(), metrics=metrics)
    assert asyncio.run(guarded.answer(["A cell!"], None)).model == "it"
    assert [facts.name for facts in asyncio.run(guarded.models())] == ["it", "other"]
    assert counted(metrics, "requests") == {"it": 1}


@pytest.mark.usefixtures("key")
def test_a_key_is_for_its_models(inner: FakeEndpoint, metrics: Metrics) -> None:
    guarded = Guarded(inner, Limits(), metrics=metrics)
    assert asyncio.run(guarded.answer(["A cell!"], "other")).model == "other"
    for model in ("it", None):  # None is the first, which is "it"
        error = refusal(guarded.answer(["A cell!"], model))
        assert (error.status, str(error)) == (403, "model: this API key is not for 'it'")
        assert refusal(guarded.model(model)).status == 403
    assert refusal(guarded.answer(["A cell!"], "none")).status == 403  # whether it exists is not told
    assert [facts.name for facts in asyncio.run(guarded.models())] == ["other"]
    assert counted(metrics, "request_errors") == {"forbidden": 3}
    assert len(inner.asked) == 1


def test_limits(inner: FakeEndpoint, metrics: Metrics) -> None:
    guarded = Guarded(inner, Limits(max_inputs=2, max_numbers=4), metrics=metrics)
    assert str(refusal(guarded.answer(["a"] * 3, None))).startswith("inputs: 3 are too many")
    assert str(refusal(guarded.answer(["a"] * 2, None))).startswith("inputs: an answer of 2 inputs times 3 labels")
    assert counted(metrics, "request_errors") == {"invalid": 2}


def test_outside_of_the_schedule(inner: FakeEndpoint, metrics: Metrics) -> None:
    closed = Guarded(inner, Limits(), SCHEDULE, metrics, now=lambda: SATURDAY)
    error = refusal(closed.answer(["A cell!"], None))
    assert (error.status, error.code) == (503, "closed")
    assert str(error) == "closed by schedule; opens Mon 2026-03-30 08:00 Europe/Berlin"
    assert error.headers["Retry-After"] == str(int((MONDAY - SATURDAY).total_seconds()))
    assert not asyncio.run(closed.model("it")).ready
    assert not inner.asked
    assert counted(metrics, "request_errors") == {"closed": 1}
    opened = Guarded(inner, Limits(), SCHEDULE, now=lambda: MONDAY)
    assert asyncio.run(opened.answer(["A cell!"], None)).model == "it"
    assert asyncio.run(opened.model("it")).ready


@pytest.mark.parametrize(
    ("error", "code"), [(unavailable("x", 1, "timeout"), "timeout"), (RuntimeError("x"), "internal_error")]
)
def test_failures_are_counted_and_passed_on(
    inner: FakeEndpoint, metrics: Metrics, error: Exception, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(inner, "answer", fail)
    with pytest.raises(type(error)):
        asyncio.run(Guarded(inner, Limits(), metrics=metrics).answer(["A cell!"], None))
    assert counted(metrics, "request_errors") == {code: 1}
