"""``POST /v1/classification``: the id/model/data/usage form, with ``data_format`` ``logits`` or ``probs``.

It is the form of OpenAI's embeddings route with a label and the numbers of all labels in the place of an embedding;
vLLM's route answers in the same form, so :mod:`rayclf.serving.protocols.vllm` takes it from here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal
from uuid import uuid4

from fastapi import APIRouter, Response
from fastapi.params import Depends
from pydantic import BaseModel, ConfigDict, Field

from rayclf.serving.answer import Answer, Endpoint
from rayclf.serving.json_body import JsonRoute, json_answer
from rayclf.serving.protocol import ModelName, TextOrItems, plain

DataFormat = Literal["probs", "logits"]


class ClassificationRequest(BaseModel):
    """One text or a list of inputs. Other fields, such as ``user``, are let be."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["Which organelle makes ATP?"], "data_format": "probs"}]}
    )

    model: ModelName | None = Field(None, description="Which model to ask, where several are served.")
    input: TextOrItems = Field(description="A text, or a list of inputs as /v1/classify takes them.")
    data_format: DataFormat = Field("probs", description="Probabilities after temperature, or raw logits.")


class ClassificationData(BaseModel):
    """One input's label and its numbers, one a label in the order of the model's labels."""

    index: int
    label: str
    probs: list[float] | None = None
    logits: list[float] | None = None
    num_classes: int


class ClassificationUsage(BaseModel):
    """Tokens read; none are made."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class ClassificationResponse(BaseModel):
    """The answer, one entry for each input, in order."""

    id: str = Field(default_factory=lambda: f"classify-{uuid4().hex}")
    object: Literal["list"] = "list"
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str
    data: list[ClassificationData]
    usage: ClassificationUsage


def in_form(answer: Answer, *, numbers: DataFormat, field: DataFormat) -> ClassificationResponse:
    """The answer with ``numbers`` of each label under the name ``field``."""
    values = (answer.logits if numbers == "logits" else answer.probabilities).tolist()
    size, used = len(answer.space), sum(answer.tokens)
    data = [
        ClassificationData(index=index, label=label, num_classes=size, **{field: row})
        for index, ((label, _), row) in enumerate(zip(answer.best(), values, strict=True))
    ]
    usage = ClassificationUsage(prompt_tokens=used, total_tokens=used)
    return ClassificationResponse(model=answer.model, data=data, usage=usage)


def router(endpoint: Callable[[], Endpoint], checks: Sequence[Depends] = ()) -> APIRouter:
    """``POST /v1/classification``."""
    routes = APIRouter(route_class=JsonRoute, dependencies=checks, tags=["id/model/data/usage"])

    @routes.post("/v1/classification", response_model=ClassificationResponse)
    async def classification(request: ClassificationRequest) -> Response:
        """Classify texts: the most probable label and the probabilities or logits of all labels, in their order."""
        answer = await endpoint().answer(plain(request.input), request.model)
        return json_answer(in_form(answer, numbers=request.data_format, field=request.data_format))

    return routes
