"""A client of an endpoint, sync and async: splits long lists, waits and tries again where that can help.

What is asked and when it is asked again is in :mod:`rayclf.client_steps`; here it is done.

>>> with rayclf.Client("http://127.0.0.1:8000") as client:
...     client.classify(["Which organelle makes ATP?"])[0].label
'biology'
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx

from rayclf.client_steps import Classification as Classification
from rayclf.client_steps import ClientError as ClientError
from rayclf.client_steps import Input, Outcome, Questions, Steps, T, limits


class Client:
    """An endpoint at ``url``, with the key it asks for, if any. Safe to share between threads.

    ``timeout`` is the seconds in which each request has its answer, all attempts and waits included, and ``retries``
    how often one is sent again: when no connection comes about or it breaks, and on 429, 502, 503 and 504. Ten take
    half a minute at least: longer than a proxy or a replica that died is away. ``concurrency`` calls of
    :meth:`classify` are under way at most; the time of the others begins when it is their turn. Every method raises
    ClientError.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 10,
        concurrency: int = 100,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._questions = Questions(url, api_key, timeout, retries)
        self._http = httpx.Client(transport=transport, limits=limits(concurrency))
        self._turn = threading.Semaphore(concurrency)

    def classify(
        self, texts: Sequence[Input], model: str | None = None, top_k: int | None = None
    ) -> list[Classification]:
        """One Classification for each of any number of texts (or pairs, or lists of chat messages), in order."""
        with self._turn:
            return self._do(self._questions.classify_steps(texts, model, top_k))

    def models(self) -> list[dict[str, Any]]:
        """The models that can be asked for: ``id``, ``ready``, ``problem_type``, ``num_labels``, ``backbone``…"""
        return self._do(self._questions.models_steps())

    def health(self) -> bool:
        """Whether the endpoint answers and is ready, asked once."""
        return self._do(self._questions.health_steps())

    def close(self) -> None:
        """Close the connections; the end of a ``with`` block does it too."""
        self._http.close()

    def _do(self, steps: Steps[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, float):
                time.sleep(step)
                outcome = None
                continue
            try:
                outcome = self._http.send(step)
            except httpx.RequestError as error:
                outcome = error

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """:class:`Client` for asyncio: the same, awaited."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        timeout: float = 120.0,
        retries: int = 10,
        concurrency: int = 100,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._questions = Questions(url, api_key, timeout, retries)
        self._http = httpx.AsyncClient(transport=transport, limits=limits(concurrency))
        self._turn = asyncio.Semaphore(concurrency)

    async def classify(
        self, texts: Sequence[Input], model: str | None = None, top_k: int | None = None
    ) -> list[Classification]:
        """As :meth:`Client.classify`."""
        async with self._turn:
            return await self._do(self._questions.classify_steps(texts, model, top_k))

    async def models(self) -> list[dict[str, Any]]:
        """As :meth:`Client.models`."""
        return await self._do(self._questions.models_steps())

    async def health(self) -> bool:
        """As :meth:`Client.health`."""
        return await self._do(self._questions.health_steps())

    async def close(self) -> None:
        """As :meth:`Client.close`."""
        await self._http.aclose()

    async def _do(self, steps: Steps[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = steps.send(outcome)
            except StopIteration as end:
                result: T = end.value
                return result
            if isinstance(step, float):
                await asyncio.sleep(step)
                outcome = None
                continue
            try:
                outcome = await self._http.send(step)
            except httpx.RequestError as error:
                outcome = error

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
