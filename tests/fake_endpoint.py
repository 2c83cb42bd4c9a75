"""What the protocols ask, answered by tiny classifiers without Ray, and an HTTP client in front of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI
from starlette.testclient import TestClient
from tiny import Made

from rayclf.model.engine import Classifier, Input
from rayclf.serving.answer import Answer, Endpoint, ModelFacts
from rayclf.serving.api_errors import invalid, not_found
from rayclf.serving.error_handlers import install


class FakeEndpoint:
    """Classifiers by name, of which the first is asked when no name is given; ``asked`` has the inputs of each call."""

    def __init__(self, **made: Made) -> None:
        self.classifiers: dict[str, Classifier] = {name: one.classifier for name, one in made.items()}
        self.asked: list[list[Input]] = []
        self.ready = True

    async def answer(self, inputs: list[Input], model: str | None, *, truncate: bool = True) -> Answer:
        name = (await self.model(model)).name
        classifier = self.classifiers[name]
        self.asked.append(inputs)
        ids = classifier.encode(inputs)  # first: it refuses forms that the classifier does not read
        if not truncate and max(classifier.lengths(inputs)) > classifier.info.max_length:
            raise invalid("too long")
        return Answer.of(classifier, name, classifier.forward(ids), [len(row) for row in ids])

    async def model(self, name: str | None) -> ModelFacts:
        name = name or next(iter(self.classifiers))
        if name not in self.classifiers:
            raise not_found(f"no model {name}")
        return ModelFacts(name, self.classifiers[name].info, self.ready)

    async def models(self) -> list[ModelFacts]:
        return [await self.model(name) for name in self.classifiers]


def serve(endpoint: Any, *routers: Callable[[Callable[[], Endpoint]], APIRouter]) -> TestClient:
    """A client of the routes of ``routers`` in front of ``endpoint``, with the errors of the application."""
    app = FastAPI()
    install(app)
    for router in routers:
        app.include_router(router(lambda: endpoint))
    return TestClient(app)


def message(response: Any, status: int = 422) -> str:
    """What an error says."""
    assert response.status_code == status, response.text
    return str(response.json()["error"]["message"])


def error(answer: httpx.Response, status: int, code: str) -> str:
    """The message of an error in the one shape."""
    assert answer.status_code == status, answer.text
    found = answer.json()["error"]
    assert (set(found), found["code"]) == ({"code", "message", "request_id"}, code)
    assert found["request_id"] == answer.headers["x-request-id"]
    return str(found["message"])
