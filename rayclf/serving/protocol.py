"""The native HTTP protocol, ``POST /v1/classify``: what a request may hold and what the answer looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from rayclf.labels import Floats
from rayclf.model.engine import Classifier

MAX_INPUTS, MAX_CHARACTERS = 1024, 200_000
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS, pattern=r"\S")]


class ClassifyRequest(BaseModel):
    """Texts to classify."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"inputs": ["Which organelle makes ATP?"], "top_k": 2}]}
    )

    inputs: list[Text] = Field(min_length=1, max_length=MAX_INPUTS, description="The texts.")
    top_k: int | None = Field(None, ge=1, description="Give only so many of the most probable labels; all when unset.")
    output: Literal["probabilities", "logits"] = Field("probabilities", description="What to give for each label.")


class Result(BaseModel):
    """The answer for one text: the most probable label, those that hold after thresholds, and a number a label."""

    label: str
    score: float
    labels: list[str]
    probabilities: dict[str, float] | None = None
    logits: dict[str, float] | None = None


class Usage(BaseModel):
    """What the request cost."""

    tokens: int


class ClassifyResponse(BaseModel):
    """The answer, one result for each input, in order."""

    model: str
    results: list[Result]
    usage: Usage


def respond(
    classifier: Classifier, model: str, request: ClassifyRequest, logits: Floats, tokens: Sequence[int]
) -> ClassifyResponse:
    """The answer to ``request`` from the raw logits ``[n, K]`` and token counts of its texts."""
    names = classifier.space.names
    results = []
    for prediction, row in zip(classifier.interpret(classifier.to_probabilities(logits)), logits, strict=True):
        best = sorted(range(len(names)), key=lambda i: -row[i])[: request.top_k]
        asked = {names[i]: prediction.probabilities[names[i]] for i in best}
        if request.output == "logits":
            asked = {names[i]: float(row[i]) for i in best}
        results.append(
            Result(label=prediction.label, score=prediction.score, labels=prediction.labels, **{request.output: asked})
        )
    return ClassifyResponse(model=model, results=results, usage=Usage(tokens=sum(tokens)))
