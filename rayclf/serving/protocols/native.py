"""rayclf's own routes: classify, and which models there are. :mod:`rayclf.serving.protocol` has the forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.params import Depends
from pydantic import BaseModel

from rayclf.serving.answer import Endpoint, ModelFacts
from rayclf.serving.json_body import JsonRoute, json_answer
from rayclf.serving.protocol import ClassifyRequest, ClassifyResponse, ModelName, plain, reply


class ModelEntry(BaseModel):
    """One model of the list; the first four fields are those of OpenAI's list of models, which many clients read."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "rayclf"
    ready: bool
    problem_type: str
    num_labels: int
    input: str
    backbone: str


class ModelList(BaseModel):
    """The models that a request may name, in OpenAI's form."""

    object: str = "list"
    data: list[ModelEntry]


def router(endpoint: Callable[[], Endpoint], checks: Sequence[Depends] = ()) -> APIRouter:
    """``POST /v1/classify``, ``GET /v1/models`` and ``GET /v1/model``."""
    routes = APIRouter(route_class=JsonRoute, dependencies=checks, tags=["native"])

    @routes.post("/v1/classify", response_model=ClassifyResponse)
    async def classify(request: ClassifyRequest) -> Response:
        """Classify texts: the most probable label, the labels that hold, and a probability for each label."""
        return json_answer(reply(request, await endpoint().answer(plain(request.inputs), request.model)))

    @routes.get("/v1/models")
    async def models() -> ModelList:
        """The models that a request may name."""
        return ModelList(data=[_entry(facts) for facts in await endpoint().models()])

    @routes.get("/v1/model")
    async def model(
        model: Annotated[ModelName | None, Query(description="Which one, where several are served.")] = None,
    ) -> dict[str, Any]:
        """What is served: labels, problem type, thresholds, backbone, and the metrics it was measured with."""
        return _about(await endpoint().model(model))

    return routes


def _entry(facts: ModelFacts) -> ModelEntry:
    info = facts.info
    return ModelEntry(
        id=facts.name,
        created=int(datetime.fromisoformat(info.created).timestamp()),
        ready=facts.ready,
        problem_type=info.label_space["problem_type"],
        num_labels=len(info.label_space["labels"]),
        input=info.reads.form,
        backbone=info.backbone.name,
    )


def _about(facts: ModelFacts) -> dict[str, Any]:
    info = facts.info
    metrics = {part: {k: v for k, v in m.items() if isinstance(v, float | int)} for part, m in info.metrics.items()}
    return {
        "model": facts.name,
        **info.label_space,
        "thresholds": info.thresholds,
        "input": info.reads.form,
        "max_length": info.max_length,
        "backbone": info.backbone.name,
        "metrics": metrics,
    }
