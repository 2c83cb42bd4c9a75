"""What one request and one key may ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf.errors import ConfigError
from rayclf.serving.api_errors import ApiError
from rayclf.serving.limits import Limits, RateLimiter


def test_settings_may_be_text() -> None:
    limits = Limits.from_settings({"max_inputs": "8", "request_timeout_s": 2.5})
    assert (limits.max_inputs, limits.request_timeout_s) == (8, 2.5)
    assert Limits.from_settings({}) == Limits()


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"max_imputs": 3}, "--limit: unknown limit 'max_imputs'; did you mean 'max_inputs'?"),
        ({"zzz": 3}, "--limit: unknown limit 'zzz'; known are max_body_bytes, max_inputs, "),
        ({"max_inputs": 0}, "--limit max_inputs: input should be greater than or equal to 1 (it is '0')"),
        ({"max_inputs": "x"}, "--limit max_inputs: input should be a valid integer"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Limits.from_settings(settings)
    assert str(caught.value).startswith(line)


CHAT = [{"role": "user", "content": "abc", "parts": [{"text": "def"}]}, {"role": "user", "content": None}]


def test_inputs() -> None:
    limits = Limits(max_inputs=2, max_characters=14)
    limits.check_inputs(["x" * 14, ("x" * 7, "x" * 7)])
    limits.check_inputs([CHAT])
    for inputs, line in (
        (["a"] * 3, "inputs: 3 are too many; send at most 2 in one request"),
        (["a", "x" * 15], "inputs[1]: 15 characters are too many; send at most 14"),
        ([("x" * 7, "x" * 8)], "inputs[0]: 15 characters are too many; send at most 14"),
        ([[*CHAT, {"x": "y"}]], "inputs[0]: 15 characters are too many; send at most 14"),
    ):
        with pytest.raises(ApiError) as caught:
            limits.check_inputs(inputs)
        assert (caught.value.status, caught.value.message) == (422, line)


def test_answers() -> None:
    limits = Limits(max_numbers=100)
    limits.check_answer(10, 10)
    limits.check_answer(100, 25_000, top_k=1)
    limits.check_answer(50, 2, top_k=9)
    for arguments, mend in (
        ((11, 10), "send at most 10 in one request or set top_k to at most 9"),
        ((21, 10, 5), "send at most 20 in one request or set top_k to at most 4"),
        ((1, 101), "set top_k to at most 100"),
        ((101, 101), "send fewer inputs and set top_k"),
    ):
        with pytest.raises(ApiError) as caught:
            limits.check_answer(*arguments)
        assert caught.value.status == 422
        what = f"inputs: an answer of {arguments[0]} inputs times {arguments[-1]} labels is too large; {mend}"
        assert caught.value.message == what


def test_a_rate() -> None:
    time = [0.0]
    limiter = RateLimiter(lambda: time[0])
    for _ in range(60):
        limiter.check("a", 60)
    with pytest.raises(ApiError) as caught:
        limiter.check("a", 60)
    assert caught.value.status == 429
    assert caught.value.headers == {"Retry-After": "1"}
    assert caught.value.message == "more than 60 requests a minute with this key"
    assert limiter.take("b", 60) == 0  # each key has its own
    assert limiter.take("a", None) == 0
    time[0] = 1.0
    assert limiter.take("a", 60) == 0
    assert limiter.take("a", 60) == pytest.approx(1)


def test_a_rate_that_is_changed_holds_at_once() -> None:
    limiter = RateLimiter(lambda: 0.0)
    limiter.take("a", 600)
    taken = [limiter.take("a", 2) for _ in range(4)]
    assert taken == [0, 0, 30, 30]


def test_each_of_several_processes_gives_its_part_of_a_rate() -> None:
    limiter = RateLimiter(lambda: 0.0, processes=2)
    assert [limiter.take("a", 4) for _ in range(3)] == [0, 0, 30]
    assert [limiter.take("b", 1) for _ in range(2)] == [0, 120]  # never none at all


def test_full_buckets_are_forgotten() -> None:
    time = [0.0]
    limiter = RateLimiter(lambda: time[0], most=10)
    for key in range(10):
        limiter.take(str(key), 60)
    time[0] = 0.5
    assert [limiter.take("0", 1), limiter.take("0", 1)] == [0, pytest.approx(60)]
    time[0] = 30.0
    limiter.take("new", 60)
    assert set(limiter._buckets) == {"0", "new"}


@given(
    st.integers(1, 300),
    st.lists(st.floats(0, 20) | st.sampled_from([0.0, -5.0]), min_size=1, max_size=200),
)
def test_no_span_of_time_gives_more_than_the_rate_and_one_full_bucket(rate: int, steps: list[float]) -> None:
    now, latest = 0.0, 0.0
    limiter = RateLimiter(lambda: now)
    taken: list[float] = []
    for step in steps:
        now += step  # a clock that goes back gives nothing
        latest = max(latest, now)
        wait = limiter.take("key", rate)
        assert 0 <= wait <= 60 / rate + 1e-6
        if not wait:
            taken.append(latest)
    for first in range(len(taken)):
        assert (
            len(taken) - first
            <= rate + (latest - taken[first]) * rate / 60 + 1e-6 + (5 * steps.count(-5.0)) * rate / 60
        )


@given(st.integers(1, 300), st.floats(0, 100))
def test_the_wait_that_is_told_is_enough(rate: int, start: float) -> None:
    now = start
    limiter = RateLimiter(lambda: now)
    while not (wait := limiter.take("key", rate)):
        pass
    now += wait + 1e-6
    assert limiter.take("key", rate) == 0
