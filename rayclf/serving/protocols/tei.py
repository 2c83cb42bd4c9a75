"""``POST /predict`` of Hugging Face's Text Embeddings Inference, as its ``docs/openapi.json`` defines it.

Right for multilabel and binary classifiers too, of which TEI takes a softmax: each label has the sigmoid of its own
logit. ``truncate`` unset cuts a text that is too long, as TEI's ``--auto-truncate`` does; false refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter
from fastapi.params import Depends
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from rayclf.serving.answer import Answer, Endpoint
from rayclf.serving.json_body import JsonRoute
from rayclf.serving.protocol import MAX_INPUTS, ModelName, Text

if TYPE_CHECKING:
    from rayclf.model.engine import Input


def _form(value: Any) -> str | None:
    """A text, one input as a list of strings, or a batch as a list of such lists: the first element tells."""
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list | tuple):
        return None
    return "<batch>" if value and isinstance(value[0], list | tuple) else "<pair>"


Strings = Annotated[list[Text], Field(min_length=1, max_length=2)]  # a text or a pair
PredictInput = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[Strings, Tag("<pair>")]
    | Annotated[list[Strings], Field(max_length=MAX_INPUTS), Tag("<batch>")],
    Discriminator(
        _form,
        custom_error_type="input_form",
        custom_error_message="Input should be a text, a pair [text, text] or a batch [[text], [text, text], …]",
    ),
]


class PredictRequest(BaseModel):
    """TEI's PredictRequest, and the model to ask. Other fields are let be, as there."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"inputs": "Which organelle makes ATP?"}]})

    inputs: PredictInput = Field(description="A text, a pair [text, text], or a batch [[text], [text, text], …].")
    raw_scores: bool = Field(False, description="Give raw logits in the place of probabilities.")
    truncate: bool | None = Field(None, description="False refuses a text that is too long; else its end is cut.")
    truncation_direction: Annotated[
        Literal["Left", "Right"], BeforeValidator(lambda value: value.title() if isinstance(value, str) else value)
    ] = Field("Right", description="The end of a text is cut; with Left a text that is too long is refused.")
    model: ModelName | None = Field(None, description="Which model to ask, where several are served.")


class LabelScore(BaseModel):
    """TEI's Prediction: one label of one input."""

    score: float
    label: str


def router(endpoint: Callable[[], Endpoint], checks: Sequence[Depends] = ()) -> APIRouter:
    """``POST /predict``."""
    routes = APIRouter(route_class=JsonRoute, dependencies=checks, tags=["TEI"])

    @routes.post("/predict")
    async def predict(request: PredictRequest) -> list[LabelScore] | list[list[LabelScore]]:
        """Classify as TEI does: every label with its probability, highest first; for a batch a list of such lists."""
        lists = _lists(request.inputs)
        inputs: list[Input] = [(one[0], one[1]) if len(one) == 2 else one[0] for one in lists or [_one(request.inputs)]]
        cut = request.truncate is not False and request.truncation_direction == "Right"
        found = _scores(await endpoint().answer(inputs, request.model, truncate=cut), raw=request.raw_scores)
        return found if lists else found[0]

    return routes


def _lists(inputs: PredictInput) -> list[list[str]]:
    """The inputs of a batch; none when it is not one."""
    return [] if isinstance(inputs, str) else [one for one in inputs if isinstance(one, list)]


def _one(inputs: PredictInput) -> list[str]:
    """The one input that is no batch, as a list of one or two strings."""
    return [inputs] if isinstance(inputs, str) else [text for text in inputs if isinstance(text, str)]


def _scores(answer: Answer, *, raw: bool) -> list[list[LabelScore]]:
    """Of each input every label with its number, highest first; equal ones in the order of the labels."""
    numbers, names = (answer.logits if raw else answer.probabilities), answer.space.names
    order = np.argsort(-answer.logits, axis=1, kind="stable")
    return [
        [LabelScore(score=score, label=names[place]) for place, score in zip(places, row[places].tolist(), strict=True)]
        for places, row in zip(order, numbers, strict=True)
    ]
