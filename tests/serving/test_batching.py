from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TEXTS, Made

from rayclf.model.multi_adapter import forward_mixed
from rayclf.serving.batching import Batcher, BatchReport, Expired, Overloaded


def row(length: int, start: int = 0) -> Any:
    return np.arange(start, start + length, dtype=np.int32)


def rows(*lengths: int) -> list[Any]:
    return [row(length) for length in lengths]


class Device:
    """A fake that computes when it is let: it notes each batch, takes as long as its clock says, and can fail."""

    def __init__(self, seconds_a_token: float = 0.01) -> None:
        self.batches: list[list[tuple[int, str]]] = []  # tokens of each row and its model
        self.now = 0.0
        self.seconds_a_token = seconds_a_token
        self.fails: set[int] = set()
        self._may = threading.Semaphore(0)

    def clock(self) -> float:
        return self.now

    def let(self, batches: int = 1) -> None:
        self._may.release(batches)

    def compute(self, ids: Sequence[Any], models: Sequence[str]) -> list[Any]:
        self.batches.append([(len(one), model) for one, model in zip(ids, models, strict=True)])
        number = len(self.batches) - 1
        assert self._may.acquire(timeout=30)
        self.now += self.seconds_a_token * sum(map(len, ids))
        if number in self.fails:
            raise RuntimeError(f"batch {number} failed")
        return [np.asarray([one.sum(), len(model)], dtype=np.float32) for one, model in zip(ids, models, strict=True)]

    def batcher(self, max_tokens: int = 100, **options: Any) -> Batcher[str]:
        return Batcher(self.compute, max_tokens=max_tokens, clock=self.clock, **options)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def start(batcher: Batcher[str], *lengths: int, model: str = "m", **options: Any) -> asyncio.Task[list[Any]]:
    return asyncio.ensure_future(batcher.submit(rows(*lengths), model, **options))


async def busy(device: Device, batcher: Batcher[str], tokens: int = 100) -> asyncio.Task[list[Any]]:
    """One request that the device computes and does not end."""
    task, number = start(batcher, tokens), len(device.batches)
    await until(lambda: len(device.batches) > number)
    return task


def test_an_idle_batcher_starts_at_once_and_a_busy_one_fills_the_next_batch() -> None:
    async def test() -> None:
        device = Device()
        batcher = device.batcher()
        first = await busy(device, batcher, 3)
        others = [start(batcher, 30, model=name) for name in ("a", "bb", "ccc", "dddd")]
        await asyncio.sleep(0)
        assert (batcher.counters.queue_rows, batcher.counters.queue_tokens) == (4, 120)
        device.let(3)
        assert [float(x) for x in (await first)[0]] == [3.0, 1.0]
        answers = await asyncio.gather(*others)
        assert device.batches == [[(3, "m")], [(30, "a"), (30, "bb"), (30, "ccc")], [(30, "dddd")]]
        assert [answer[0].tolist() for answer in answers] == [[435.0, i] for i in (1.0, 2.0, 3.0, 4.0)]
        await batcher.close()
        assert (batcher.counters.answered, batcher.counters.batches, batcher.counters.queue_tokens) == (5, 3, 0)

    run(test)


def test_a_long_request_lets_short_ones_in_between() -> None:
    async def test() -> None:
        device = Device()
        batcher = device.batcher()
        first = await busy(device, batcher)
        long = start(batcher, *[20] * 20, model="long")
        await asyncio.sleep(0)
        short = [start(batcher, 20, model="short") for _ in range(2)]
        await asyncio.sleep(0)
        device.let(2)
        await asyncio.gather(first, *short)
        assert not long.done()
        assert device.batches[1] == [(20, "long"), (20, "short"), (20, "short"), (20, "long"), (20, "long")]
        device.let(9)
        assert len(await long) == 20

    run(test)


def test_a_row_longer_than_the_budget_is_computed_alone() -> None:
    async def test() -> None:
        device = Device()
        device.let(9)
        batcher = device.batcher(max_tokens=10)
        assert len(await batcher.submit(rows(4, 50, 0, 4), "m")) == 4
        assert [[length for length, _ in batch] for batch in device.batches] == [[4], [50], [0, 4]]

    run(test)


def test_rows_of_a_client_that_has_gone_are_not_computed() -> None:
    async def test() -> None:
        device = Device()
        batcher = device.batcher()
        first = await busy(device, batcher)
        gone, stays = start(batcher, 30, 30, model="gone"), start(batcher, 30, model="stays")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        assert (batcher.counters.queue_rows, batcher.counters.cancelled) == (1, 1)
        device.let(2)
        await asyncio.gather(first, stays)
        assert device.batches[1:] == [[(30, "stays")]]

    run(test)


def test_a_client_that_goes_while_its_rows_are_computed_harms_nobody() -> None:
    async def test() -> None:
        device = Device()
        batcher = device.batcher()
        gone = start(batcher, 50, 50, 50, model="gone")
        stays = start(batcher, 50, model="stays")
        await until(lambda: len(device.batches) == 1)
        gone.cancel()
        device.let(2)
        assert (await stays)[0].tolist() == [1225.0, 5.0]
        assert [model for batch in device.batches for _, model in batch] == ["gone", "stays"]

    run(test)


def test_a_request_past_its_deadline_is_refused_and_not_computed() -> None:
    async def test() -> None:
        device = Device()
        batcher = device.batcher()
        first = await busy(device, batcher)
        late, stays = start(batcher, 30, timeout_s=0.5, model="late"), start(batcher, 30, model="stays")
        await asyncio.sleep(0)
        device.let(2)  # the first takes one second of the device's clock
        await asyncio.gather(first, stays)
        with pytest.raises(Expired, match="deadline"):
            await late
        assert device.batches[1:] == [[(30, "stays")]]
        assert batcher.counters.expired == 1

    run(test)


def test_a_deadline_is_kept_while_a_batch_hangs() -> None:
    async def test() -> None:
        device = Device()
        batcher = device.batcher()
        task = start(batcher, 10, timeout_s=0.01)
        with pytest.raises(Expired):
            await task
        device.let()
        await batcher.close()
        assert batcher.counters.answered == 0

    run(test)


def test_overload_is_refused_at_once_and_says_when_to_come_back() -> None:
    async def test() -> None:
        device = Device()  # 100 tokens a second
        batcher = device.batcher(max_wait_s=4)
        device.let()
        await batcher.submit(rows(100), "m")
        assert batcher.rate == pytest.approx(100)
        tasks = [await busy(device, batcher)]
        tasks += [start(batcher, 100) for _ in range(5)]
        await asyncio.sleep(0)
        # One batch computed, four that wait are 5 s; the fifth was refused for 5 s > 4 s.
        with pytest.raises(Overloaded, match="overloaded") as caught:
            await tasks[5]
        assert caught.value.retry_after == pytest.approx(1)
        with pytest.raises(Overloaded) as caught:
            await batcher.submit(rows(100), "m", timeout_s=3)
        assert caught.value.retry_after == pytest.approx(3)
        assert batcher.counters.shed == 2
        device.let(9)
        assert len(await asyncio.gather(*tasks[:5])) == 5
        assert await batcher.submit(rows(100), "m", timeout_s=0.9)  # idle again: it is tried

    run(test)


def test_a_short_request_is_not_refused_for_a_long_one_before_it() -> None:
    async def test() -> None:
        device = Device()
        batcher = device.batcher(max_wait_s=4)
        device.let()
        await batcher.submit(rows(100), "m")
        long = start(batcher, *[20] * 100)  # 20 s of work
        await until(lambda: len(device.batches) == 2)
        short = start(batcher, 20, timeout_s=2)
        device.let(2)
        assert len(await short) == 1
        device.let(50)
        await long

    run(test)


def test_a_slow_first_batch_refuses_nothing_for_ever() -> None:
    async def test() -> None:
        device = Device(seconds_a_token=10)
        batcher = device.batcher(max_wait_s=1)
        device.let(100)
        await batcher.submit(rows(100), "m")
        device.seconds_a_token = 0.001
        for _ in range(60):
            await batcher.submit(rows(100), "m", timeout_s=5)
        assert batcher.rate is not None
        assert batcher.rate > 500

    run(test)


def test_a_failed_batch_fails_its_requests_alone() -> None:
    async def test() -> None:
        device = Device()
        device.fails = {1}
        reports: list[BatchReport] = []
        batcher = device.batcher(report=reports.append)
        first = await busy(device, batcher)
        bad, good = start(batcher, 60, 60, 60, model="bad"), start(batcher, 60, model="good")
        await asyncio.sleep(0)
        device.let(9)
        with pytest.raises(RuntimeError, match="batch 1 failed"):
            await bad
        assert len(await good) == len(await first) == 1
        assert [[model for _, model in batch] for batch in device.batches[1:]] == [["bad"], ["good"]]
        assert [report.failed for report in reports] == [False, True, False]
        assert reports[2] == BatchReport(1, 60, pytest.approx(0.6), (pytest.approx(1.6),), False)  # type: ignore[arg-type]
        assert (batcher.counters.failed, batcher.counters.answered) == (1, 2)

    run(test)


def test_too_few_answers_and_a_failing_report_leave_nobody_waiting() -> None:
    async def test() -> None:
        def report(_: BatchReport) -> None:
            raise ValueError

        batcher = Batcher[str](lambda ids, models: [], max_tokens=10, report=report)
        for _ in range(2):
            with pytest.raises(Exception, match="0 answers for a batch of 1 rows"):
                await batcher.submit(rows(3), "m")

    run(test)


def test_closing_answers_what_waits_and_refuses_what_comes() -> None:
    async def test() -> None:
        device = Device()
        batcher = device.batcher()
        first = await busy(device, batcher)
        waits = start(batcher, 30)
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="closing"):
            await batcher.submit(rows(1), "m")
        device.let(2)
        await closing
        assert first.done()
        assert waits.done()

    run(test)


def test_nothing_to_do_is_done_at_once() -> None:
    async def test() -> None:
        assert await Device().batcher().submit([], "m") == []

    run(test)


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=8), min_size=1, max_size=12),
    max_tokens=st.integers(1, 60),
    cancelled=st.sets(st.integers(0, 11)),
)
def test_every_row_is_computed_once_within_the_budget_and_every_request_gets_its_own(
    requests: list[list[int]], max_tokens: int, cancelled: set[int]
) -> None:
    async def test() -> None:
        device = Device()
        batcher = device.batcher(max_tokens)
        first = await busy(device, batcher, 1)
        tasks = [start(batcher, *lengths, model="m" * i) for i, lengths in enumerate(requests)]
        await asyncio.sleep(0)
        for i in cancelled & set(range(len(tasks))):
            tasks[i].cancel()
        device.let(1000)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await first
        for i, (lengths, answer) in enumerate(zip(requests, answers, strict=True)):
            if i in cancelled:
                assert isinstance(answer, asyncio.CancelledError)
            else:
                assert not isinstance(answer, BaseException)
                assert [x.tolist() for x in answer] == [[n * (n - 1) / 2, i] for n in lengths]
        computed = [one for batch in device.batches[1:] for one in batch]
        wanted = [(n, "m" * i) for i, lengths in enumerate(requests) if i not in cancelled for n in lengths]
        assert sorted(computed) == sorted(wanted)
        assert all(len(b) == 1 or sum(max(1, n) for n, _ in b) <= max_tokens for b in device.batches)
        left = batcher.counters
        assert (left.queue_rows, left.queue_tokens, left.computing_tokens) == (0, 0, 0)
        await batcher.close()

    run(test)


def test_a_real_classifier_answers_through_it_as_alone(make: Callable[..., Made]) -> None:
    async def test() -> None:
        llama, bert = make("llama").classifier, make("bert").classifier
        batcher = Batcher(forward_mixed, max_tokens=64)
        pairs = [(one, text) for text in TEXTS for one in (llama, bert)]
        answers = await asyncio.gather(*(batcher.submit(one.encode([text]), one) for one, text in pairs))
        for (one, text), answer in zip(pairs, answers, strict=True):
            np.testing.assert_allclose(answer[0], one.logits([text])[0], atol=1e-5, rtol=0)
        await batcher.close()

    run(test)
