"""KServe's Open Inference Protocol, version 2, over HTTP and JSON.

Published as ``specification/protocol/open_inference_rest.yaml`` and ``inference_rest.md`` of
github.com/kserve/open-inference-protocol. Of what is optional there, versions of a model and binary tensors are left
out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Path, Response
from fastapi.params import Depends
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

import rayclf
from rayclf.serving.answer import Answer, Endpoint, ModelFacts
from rayclf.serving.api_errors import unavailable
from rayclf.serving.json_body import JsonRoute, json_answer
from rayclf.serving.protocol import MAX_INPUTS, ModelName, Text

if TYPE_CHECKING:
    from rayclf.model.engine import Input

OutputName = Literal["label", "probabilities", "holds"]
_OUTPUTS: tuple[OutputName, ...] = ("label", "probabilities", "holds")
_DATATYPES: dict[OutputName, str] = {"label": "BYTES", "probabilities": "FP32", "holds": "BOOL"}
Cell = Annotated[
    Annotated[Text, Tag("<text>")] | Annotated[tuple[Text], Tag("<row>")],
    Discriminator(lambda value: "<row>" if isinstance(value, list | tuple) else "<text>"),
]
_NAME = Path(min_length=1, max_length=200, description="The model's name.")


class TextTensor(BaseModel):
    """A request_input: a tensor of texts, or of chat messages as JSON."""

    name: Literal["text", "text_pair"]
    shape: list[Annotated[int, Field(ge=0)]] = Field(description="[n] or [n, 1].")
    datatype: Literal["BYTES"]
    data: list[Cell] = Field(min_length=1, max_length=MAX_INPUTS)

    @property
    def texts(self) -> list[str]:
        """The texts, ``[n]``."""
        return [cell if isinstance(cell, str) else cell[0] for cell in self.data]

    @model_validator(mode="after")
    def _whole(self) -> TextTensor:
        size = len(self.data)
        if self.shape not in ([size], [size, 1]):
            raise PydanticCustomError("shape", f"shape should be [{size}] or [{size}, 1], as data holds {size} texts")
        return self


class RequestedOutput(BaseModel):
    """A request_output: a tensor that the answer shall hold."""

    name: OutputName


class InferRequest(BaseModel):
    """An inference_request. Parameters, of which the specification defines none, are let be."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "42",
                    "inputs": [
                        {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Which organelle makes ATP?"]}
                    ],
                }
            ]
        }
    )

    id: Annotated[str, StringConstraints(max_length=1000)] | None = Field(None, description="Comes back in the answer.")
    inputs: list[TextTensor] = Field(min_length=1, max_length=2, description="A tensor text; for pairs also text_pair.")
    outputs: list[RequestedOutput] = Field([], max_length=16, description="The tensors to give; all when unset.")

    @field_validator("inputs")
    @classmethod
    def _text_and_pair(cls, tensors: list[TextTensor]) -> list[TextTensor]:
        if [tensor.name for tensor in tensors] not in (["text"], ["text", "text_pair"], ["text_pair", "text"]):
            raise PydanticCustomError("tensors", "give a tensor text and, for pairs, a tensor text_pair")
        if len({len(tensor.texts) for tensor in tensors}) != 1:
            raise PydanticCustomError("tensors", "text and text_pair should hold the same number of texts")
        return tensors

    @property
    def plain(self) -> list[Input]:
        """The inputs as a classifier takes them."""
        found = {tensor.name: tensor.texts for tensor in self.inputs}
        if "text_pair" not in found:
            return list(found["text"])
        return list(zip(found["text"], found["text_pair"], strict=True))


class ResponseOutput(BaseModel):
    """A response_output; ``data`` is flat, in row-major order."""

    name: str
    shape: list[int]
    datatype: str
    data: list[str] | list[float] | list[bool]


class InferResponse(BaseModel):
    """An inference_response."""

    model_name: str
    id: str | None = None
    outputs: list[ResponseOutput]


class MetadataTensor(BaseModel):
    """A metadata_tensor; -1 in a shape is any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A metadata_model_response, with the names of the labels in the order of the tensors' columns."""

    name: str
    platform: str = "rayclf"
    inputs: list[MetadataTensor]
    outputs: list[MetadataTensor]
    parameters: dict[str, Any]


def router(endpoint: Callable[[], Endpoint], checks: Sequence[Depends] = ()) -> APIRouter:
    """``GET /v2``, ``GET /v2/models/{m}`` and ``POST /v2/models/{m}/infer``; health is in :func:`health_router`."""
    routes = APIRouter(route_class=JsonRoute, dependencies=checks, prefix="/v2", tags=["Open Inference Protocol V2"])

    @routes.get("")
    @routes.get("/", include_in_schema=False)  # which of the two is meant differs between the page and the schema
    async def server() -> dict[str, Any]:
        """Server metadata."""
        return {"name": "rayclf", "version": rayclf.__version__, "extensions": list[str]()}

    @routes.get("/models/{model}")
    async def metadata(model: Annotated[ModelName, _NAME]) -> ModelMetadata:
        """Model metadata: the tensors of requests and answers, and the names of the labels."""
        return _metadata(await endpoint().model(model))

    @routes.post("/models/{model}/infer", response_model=InferResponse)
    async def infer(request: InferRequest, model: Annotated[ModelName, _NAME]) -> Response:
        """Classify texts: a tensor each of labels, probabilities and which labels hold after thresholds."""
        answer = await endpoint().answer(request.plain, model)
        asked = [output.name for output in request.outputs] or _OUTPUTS
        outputs = [_tensor(answer, name) for name in dict.fromkeys(asked)]
        return json_answer(InferResponse(model_name=answer.model, id=request.id, outputs=outputs))

    return routes


def health_router(endpoint: Callable[[], Endpoint]) -> APIRouter:
    """The health routes of the protocol, apart from the others because probes of Kubernetes carry no key."""
    routes = APIRouter(route_class=JsonRoute, prefix="/v2", tags=["Open Inference Protocol V2"])

    @routes.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the server answers at all."""
        return {"live": True}

    @routes.get("/health/ready")
    async def ready() -> dict[str, bool]:
        """Whether all models are ready; 503 when one is not."""
        for facts in await endpoint().models():
            _check_ready(facts)
        return {"live": True, "ready": True}

    @routes.get("/models/{model}/ready")
    async def model_ready(model: Annotated[ModelName, _NAME]) -> dict[str, str | bool]:
        """Whether one model is ready; 503 when it is not."""
        facts = await endpoint().model(model)
        _check_ready(facts)
        return {"name": facts.name, "ready": True}

    return routes


def _check_ready(facts: ModelFacts) -> None:
    if not facts.ready:
        raise unavailable(f"model {facts.name} is not ready yet; try again", 1, "starting")


def _metadata(facts: ModelFacts) -> ModelMetadata:
    names = [label["name"] for label in facts.info.label_space["labels"]]
    inputs = ["text", "text_pair"] if facts.info.reads.form == "pair" else ["text"]
    shapes = {"label": [-1], "probabilities": [-1, len(names)], "holds": [-1, len(names)]}
    return ModelMetadata(
        name=facts.name,
        inputs=[MetadataTensor(name=name, datatype="BYTES", shape=[-1]) for name in inputs],
        outputs=[MetadataTensor(name=name, datatype=_DATATYPES[name], shape=shapes[name]) for name in _OUTPUTS],
        parameters={
            "labels": names,
            "problem_type": facts.info.label_space["problem_type"],
            "thresholds": facts.info.thresholds,
        },
    )


def _tensor(answer: Answer, name: OutputName) -> ResponseOutput:
    if name == "label":
        labels = [label for label, _ in answer.best()]
        return ResponseOutput(name=name, shape=[len(labels)], datatype=_DATATYPES[name], data=labels)
    values = answer.probabilities if name == "probabilities" else answer.holds
    return ResponseOutput(name=name, shape=list(values.shape), datatype=_DATATYPES[name], data=values.ravel().tolist())
