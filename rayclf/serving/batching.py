"""Batches by tokens and by deadline: requests hand in rows of token ids and await their logits.

One thread computes one batch at a time. With nothing to do, a request starts at once; what comes in meanwhile waits,
and the next batch is filled with rows of all requests up to a budget of tokens. Requests take turns, one row each, in
order of arrival, so that a long one is spread over batches and short ones get in between. Nothing is computed for a
client that has gone or a deadline that has passed, and what cannot be ready in time is refused at once (load shedding:
sre.google/sre-book/addressing-cascading-failures). asyncio only; a :class:`Batcher` belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from logging import getLogger
from typing import Generic, TypeVar

from rayclf.data.tokens import Ids
from rayclf.errors import RayclfError
from rayclf.labels import Floats

Model = TypeVar("Model")
_log = getLogger("rayclf")
_MEMORY = 0.8  # weight of the past in the measured rate, a batch


class Overloaded(RayclfError):
    """A request was refused since it would wait too long; HTTP 503 or 429 with ``Retry-After``."""

    def __init__(self, message: str, retry_after: float) -> None:
        """``retry_after`` seconds from now, at least one, there should be room."""
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[Overloaded], tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class Expired(RayclfError):
    """The deadline of a request passed before its answer was there; HTTP 503."""


@dataclass(frozen=True)
class BatchReport:
    """One batch, for metrics: ``queue_seconds`` are those of requests of which it held the first rows."""

    rows: int
    tokens: int
    compute_seconds: float
    queue_seconds: tuple[float, ...]
    failed: bool


@dataclass
class Counters:
    """What happened so far (requests), and what waits now; ``computing_tokens`` are in no queue any more."""

    answered: int = 0
    failed: int = 0
    shed: int = 0
    expired: int = 0
    cancelled: int = 0
    batches: int = 0
    queue_rows: int = 0
    queue_tokens: int = 0
    computing_tokens: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0


@dataclass(eq=False)
class _Request(Generic[Model]):
    ids: Sequence[Ids]
    model: Model
    arrived: float
    deadline: float
    answer: asyncio.Future[list[Floats]]
    tokens: int  # of rows that wait
    next: int = 0
    logits: dict[int, Floats] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        return len(self.ids) - self.next


def _cost(row: Ids) -> int:
    return max(1, len(row))  # an empty row is read as one token


class Batcher(Generic[Model]):
    """Rows of many requests, in batches, through one function that computes."""

    def __init__(
        self,
        compute: Callable[[Sequence[Ids], Sequence[Model]], Sequence[Floats]],
        *,
        max_tokens: int,
        max_wait_s: float = 30.0,
        report: Callable[[BatchReport], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Compute with ``compute(rows, models)``, which gives the logits ``[K]`` of each row and runs in a thread.

        ``max_tokens`` bounds a batch, but for a row that alone is longer. ``max_wait_s`` is how long a request may have
        to wait by the measured rate before it is refused. ``report`` is told of each batch, on the event loop;
        ``clock`` gives seconds.
        """
        self.counters = Counters()
        self.rate: float | None = None  # tokens a second, of batches at least half full
        self._compute, self._max_tokens, self._max_wait_s = compute, max_tokens, max_wait_s
        self._report, self._clock = report, clock
        self._queue: deque[_Request[Model]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rayclf-batch")
        self._worker: asyncio.Task[None] | None = None
        self._closed = False
        self._measured = (0.0, 0.0)  # tokens and seconds, the past fading

    async def submit(self, ids: Sequence[Ids], model: Model, *, timeout_s: float = float("inf")) -> list[Floats]:
        """Logits ``[K]`` of each row by ``model``, in order.

        Cancelled, its rows that wait are dropped. Raises Overloaded at once when it would wait too long, Expired when
        the answer is not there after ``timeout_s``, and whatever ``compute`` raised for a batch that held a row of it.
        """
        if self._closed:
            raise Overloaded("the server is closing; try again", 1.0)
        if not len(ids):
            return []
        loop = asyncio.get_running_loop()
        tokens = sum(map(_cost, ids))
        self._refuse_late(len(ids), tokens, timeout_s)
        now = self._clock()
        request = _Request(ids, model, now, now + timeout_s, loop.create_future(), tokens)
        self._queue.append(request)
        self.counters.queue_rows += len(ids)
        self.counters.queue_tokens += tokens
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        timer = loop.call_later(timeout_s, self._expire, request) if timeout_s != float("inf") else None
        try:
            logits = await request.answer
        except asyncio.CancelledError:
            self.counters.cancelled += 1
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if request.answer.done() and not request.answer.cancelled():
                request.answer.exception()  # seen, though the request was cancelled in the same moment
            self._drop(request)
        self.counters.answered += 1
        return logits

    async def close(self) -> None:
        """Refuse what comes from now on, and return when all that waits is answered."""
        self._closed = True
        while self._worker is not None:
            await asyncio.wait([self._worker])
        self._thread.shutdown()

    def _refuse_late(self, rows: int, tokens: int, timeout_s: float) -> None:
        """Raise Overloaded when the queue will not let it be ready in time. An idle batcher always tries."""
        if self._worker is None or self.rate is None:
            return
        allowed = min(self._max_wait_s, timeout_s - tokens / self.rate)
        if (self.counters.computing_tokens + self.counters.queue_tokens) / self.rate <= allowed:
            return
        # Requests take turns: of each, as many rows come first as this one has.
        ahead = sum(one.tokens * min(1.0, rows / one.waiting) for one in self._queue if one.waiting)
        wait = (self.counters.computing_tokens + ahead) / self.rate
        if wait > allowed:
            self.counters.shed += 1
            late = max(1.0, wait - max(0.0, allowed))
            raise Overloaded(f"overloaded: an answer would take {wait + tokens / self.rate:.1f} s; try later", late)

    def _expire(self, request: _Request[Model]) -> None:
        if not request.answer.done():
            self.counters.expired += 1
            request.answer.set_exception(Expired("no answer before the request's deadline; try later"))
        self._drop(request)

    def _drop(self, request: _Request[Model]) -> None:
        """Take what waits of a request out of the queue; where it stands, :meth:`_next_batch` removes it."""
        self.counters.queue_rows -= request.waiting
        self.counters.queue_tokens -= request.tokens
        request.next, request.tokens = len(request.ids), 0

    def _next_batch(self) -> list[tuple[_Request[Model], int]]:
        """Rows of the next batch: one a request in turn, until the next one would not fit."""
        batch: list[tuple[_Request[Model], int]] = []
        room, now = self._max_tokens, self._clock()
        while self._queue:
            request = self._queue[0]
            if now >= request.deadline:
                self._expire(request)
            if not request.waiting:
                self._queue.popleft()
                continue
            cost = _cost(request.ids[request.next])
            if batch and cost > room:
                break
            batch.append((request, request.next))
            room -= cost
            request.next += 1
            request.tokens -= cost
            self.counters.queue_rows -= 1
            self.counters.queue_tokens -= cost
            self._queue.rotate(-1)
        return batch

    async def _work(self) -> None:
        """Compute until nothing waits."""
        try:
            while batch := self._next_batch():
                await self._run(batch)
        finally:
            self._worker = None

    async def _run(self, batch: Sequence[tuple[_Request[Model], int]]) -> None:
        begin = self._clock()
        rows = [request.ids[place] for request, place in batch]
        tokens = sum(map(_cost, rows))
        queued = tuple(begin - request.arrived for request, place in batch if place == 0)
        self.counters.computing_tokens = tokens
        error: Exception | None = None
        logits: Sequence[Floats] = ()
        try:
            models = [request.model for request, _ in batch]
            logits = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, rows, models)
            if len(logits) != len(rows):
                raise RayclfError(f"{len(logits)} answers for a batch of {len(rows)} rows; please report this")
        except Exception as problem:  # of this batch's rows; the next batch may be sound
            error = problem
        seconds = self._clock() - begin
        self.counters.computing_tokens = 0
        self.counters.batches += 1
        self.counters.queue_seconds += sum(queued)
        self.counters.compute_seconds += seconds
        if error is None and tokens * 2 >= self._max_tokens:  # small ones say nothing of the rate under load
            self._measured = (_MEMORY * self._measured[0] + tokens, _MEMORY * self._measured[1] + seconds)
            self.rate = self._measured[0] / max(self._measured[1], 1e-9)
        if error is None:
            self._hand_out(batch, logits)
        else:
            self._fail(batch, error)
        if self._report is not None:
            try:
                self._report(BatchReport(len(rows), tokens, seconds, queued, error is not None))
            except Exception:  # requests that wait must not pay for it
                _log.exception("the report of a batch failed")

    def _hand_out(self, batch: Sequence[tuple[_Request[Model], int]], logits: Sequence[Floats]) -> None:
        for (request, place), row in zip(batch, logits, strict=True):
            request.logits[place] = row
            if len(request.logits) == len(request.ids) and not request.answer.done():
                request.answer.set_result([request.logits[i] for i in range(len(request.ids))])

    def _fail(self, batch: Sequence[tuple[_Request[Model], int]], error: Exception) -> None:
        for request in {id(request): request for request, _ in batch}.values():
            if not request.answer.done():
                self.counters.failed += 1
                request.answer.set_exception(error)
            self._drop(request)
