"""What stands before the models: the request's key, its limits, the schedule; and the count of what was asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rayclf.serving.access import note
from rayclf.serving.answer import Answer, Endpoint, ModelFacts
from rayclf.serving.api_errors import CODES, ApiError, forbidden, unavailable
from rayclf.serving.keys import ALL, Key
from rayclf.serving.limits import Limits
from rayclf.serving.metrics import Metrics
from rayclf.serving.schedule import Schedule

if TYPE_CHECKING:
    from rayclf.model.engine import Input

asking: ContextVar[Key] = ContextVar("asking")  # the key of the request at hand, which a dependency of the routes sets


class Guarded:
    """An :class:`~rayclf.serving.answer.Endpoint` around another, for requests whose key is in :data:`asking`."""

    def __init__(
        self,
        inner: Endpoint,
        limits: Limits,
        schedule: Schedule | None = None,
        metrics: Metrics | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Outside of ``schedule`` (None is always) requests are answered 503 with the time of the next start."""
        self._inner, self._limits, self._schedule, self._now = inner, limits, schedule, now
        self._metrics = metrics or Metrics()

    async def answer(self, inputs: Sequence[Input], model: str | None, *, truncate: bool = True) -> Answer:
        """See :class:`~rayclf.serving.answer.Endpoint`; raises ApiError also for what the key or a limit forbids."""
        began = time.perf_counter()
        try:
            self._check_open()
            self._limits.check_inputs(inputs)
            name = await self._allowed(model)
            answer = await self._inner.answer(list(inputs), name, truncate=truncate)
            self._limits.check_answer(len(inputs), len(answer.space))
        except ApiError as error:
            self._metrics.failed(error.code)
            note(inputs=len(inputs), code=error.code)
            raise
        except Exception:
            self._metrics.failed(CODES[500])
            raise
        self._metrics.answered(answer, time.perf_counter() - began)
        note(model=answer.model, inputs=len(inputs), tokens=sum(answer.tokens))
        return answer

    async def model(self, name: str | None) -> ModelFacts:
        """See :class:`~rayclf.serving.answer.Endpoint`; one that the key is not for is 403."""
        facts = await self._inner.model(name)
        self._check_key(facts.name)
        return replace(facts, ready=facts.ready and self._open)

    async def models(self) -> list[ModelFacts]:
        """See :class:`~rayclf.serving.answer.Endpoint`; only those that the key is for."""
        key = asking.get(None)
        found = [facts for facts in await self._inner.models() if key is None or key.allows(facts.name)]
        return found if self._open else [replace(facts, ready=False) for facts in found]

    @property
    def _open(self) -> bool:
        return self._schedule is None or self._schedule.is_open(self._now())

    def _check_open(self) -> None:
        if self._open or self._schedule is None:
            return
        now = self._now()
        start = self._schedule.next_open(now)
        when = self._schedule.spoken(start)
        raise unavailable(f"closed by schedule; opens {when}", (start - now).total_seconds(), "closed")

    async def _allowed(self, model: str | None) -> str | None:
        """The name of the model that is asked, if the key is for it; its description is not read where any will do."""
        key = asking.get(None)
        if key is None or ALL in key.models:
            return model
        name = model if model is not None else (await self._inner.model(None)).name
        self._check_key(name)
        return name

    @staticmethod
    def _check_key(name: str) -> None:
        key = asking.get(None)  # None where no key was asked for: health
        if key is not None and not key.allows(name):
            raise forbidden(f"model: this API key is not for '{name}'")
