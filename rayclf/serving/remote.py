"""Models in replicas of their own, in one or more versions that share the requests, and asked again when one dies.

Classifying changes nothing, so a request whose replica died is simply sent to another. Nothing here imports PyTorch:
the process that speaks HTTP stays small.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, RayServeException

from rayclf.errors import ArtifactError
from rayclf.model.info import find_artifact, read_info
from rayclf.serving.answer import Answer, ModelFacts
from rayclf.serving.api_errors import ApiError, ASGIApp, Message, Receive, Scope, Send, not_found, unavailable

if TYPE_CHECKING:
    from rayclf.model.engine import Input

HEADER = b"x-model-version"
_TRIES, _PAUSE_S = 4, 0.2  # twice as long each time

_answered_by: ContextVar[list[str]] = ContextVar("answered_by")


@dataclass
class Version:
    """One version: its models by name, how to ask its replicas, and its part of the requests; the first is the main."""

    number: str
    models: Mapping[str, str]
    ask: Callable[[list[Input], str | None, bool], Awaitable[Answer]]
    share: float = 100.0
    credit: float = 0.0


class RemoteModels:
    """An :class:`~rayclf.serving.answer.Endpoint` over versions whose models are in replicas."""

    def __init__(self, timeout_s: float) -> None:
        """A request that nobody answered within ``timeout_s``, waking included, is refused with 503."""
        self._timeout_s = timeout_s
        self._versions: list[Version] = []
        self._known: dict[str, ModelFacts] = {}  # by place

    def use(self, versions: Sequence[Version]) -> None:
        """From now on, ask these; requests that run go on where they are."""
        self._versions = list(versions)
        self._known = {}

    async def answer(self, inputs: Sequence[Input], model: str | None, *, truncate: bool = True) -> Answer:
        """See :class:`~rayclf.serving.answer.Endpoint`."""
        version = self.choose(model)
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await _ask(version, list(inputs), model, truncate)
        except TimeoutError:
            raise unavailable("no replica answered in time; try again", 5, "timeout") from None
        _answered_by.get([]).append(version.number)
        return answer

    async def model(self, name: str | None) -> ModelFacts:
        """See :class:`~rayclf.serving.answer.Endpoint`; a model that sleeps is ready too, since a request wakes it."""
        models = self._main(name).models
        name = next(iter(models)) if name is None else name
        if name not in models:
            raise not_found(f"model: '{name}' is not served here; GET /v1/models lists what is")
        place = models[name]
        if place not in self._known:
            try:
                info = await asyncio.to_thread(lambda: read_info(find_artifact(place)))
            except ArtifactError as error:
                raise not_found(f"model: '{name}' cannot be read ({error})") from None
            self._known[place] = ModelFacts(name, info, True)
        return self._known[place]

    async def models(self) -> list[ModelFacts]:
        """See :class:`~rayclf.serving.answer.Endpoint`."""
        names = dict.fromkeys(name for version in self._versions if version.share for name in version.models)
        return [await self.model(name) for name in names]

    def choose(self, model: str | None) -> Version:
        """The version for the next request: by share among those that have the model, spread as evenly as can be.

        Smooth weighted round-robin, as nginx has it: of any 10 requests in a row, 1 goes to a version with 10 %.
        """
        able = [v for v in self._versions if v.share and (model is None or model in v.models)] or [self._main(model)]
        for version in able:
            version.credit += version.share
        chosen = max(able, key=lambda version: version.credit)
        chosen.credit -= sum(version.share for version in able)
        return chosen

    def _main(self, model: str | None) -> Version:
        """The first version that has the model, or else the first."""
        if not self._versions:
            raise unavailable("the models are being started", 1, "starting")
        able = (version for version in self._versions if version.share and model in version.models)
        return self._versions[0] if model is None else next(able, self._versions[0])


async def _ask(version: Version, inputs: list[Input], model: str | None, truncate: bool) -> Answer:
    """The answer of any replica; raises the ApiError that it raised, or 503 when several died one after the other."""
    for attempt in range(_TRIES):
        if attempt:
            await asyncio.sleep(_PAUSE_S * 2 ** (attempt - 1))
        try:
            return await version.ask(inputs, model, truncate)
        except RayTaskError as error:  # it lives and has refused, or failed
            raise (error.cause if isinstance(error.cause, ApiError) else error) from None
        except BackPressureError:
            raise unavailable("overloaded; try later", 1, "overloaded") from None
        except (RayError, RayServeException):  # it died, or went away
            continue
    raise unavailable("the replicas that were asked died; try again", 2)


class VersionHeader:
    """ASGI middleware: ``X-Model-Version`` says which version answered."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application with a place for the version to be noted in."""
        noted: list[str] = []
        _answered_by.set(noted)

        async def with_version(message: Message) -> None:
            if message["type"] == "http.response.start" and noted and noted[-1]:
                message = {**message, "headers": [*message.get("headers", ()), (HEADER, noted[-1].encode())]}
            await send(message)

        await self.app(scope, receive, with_version)
