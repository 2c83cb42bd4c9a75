"""The native HTTP protocol, ``POST /v1/classify``: what a request may hold and what the answer looks like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from rayclf.labels import Floats
from rayclf.model.engine import Classifier, Input

MAX_INPUTS, MAX_CHARACTERS = 1024, 200_000
MAX_MESSAGES = 1024


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "Text should not be empty")
    return text


def _form(value: Any) -> str | None:
    """Which of the three forms an input has, so that an error speaks of that one alone."""
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list | tuple):
        return None
    return "messages" if value and isinstance(value[0], dict | Message) else "pair"


Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]
Content = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]


class Message(BaseModel):
    """One message of a chat; other fields than these go to the backbone's chat template as they are."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: Content | None = None


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
Item = Annotated[
    Annotated[Text, Tag("text")] | Annotated[tuple[Text, Text], Tag("pair")] | Annotated[Messages, Tag("messages")],
    Discriminator(
        _form,
        custom_error_type="input_form",
        custom_error_message="Input should be a text, a pair [text, text_pair] or a list of chat messages",
    ),
]


class ClassifyRequest(BaseModel):
    """What to classify: texts, or what else the classifier was trained to read."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"inputs": ["Which organelle makes ATP?"], "top_k": 2}]}
    )

    inputs: list[Item] = Field(
        min_length=1,
        max_length=MAX_INPUTS,
        description="Texts; [text, text_pair] each, or a list of chat messages each, where the classifier reads those.",
    )
    top_k: int | None = Field(None, ge=1, description="Give only so many of the most probable labels; all when unset.")
    output: Literal["probabilities", "logits"] = Field("probabilities", description="What to give for each label.")


def plain_inputs(request: ClassifyRequest) -> list[Input]:
    """The inputs as the classifier takes them."""
    return [
        [message.model_dump(exclude_none=True) for message in item] if isinstance(item, list) else item
        for item in request.inputs
    ]


def error_line(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors as one line that names the place: ``inputs[3]: Text should not be empty``."""
    line = ""
    for part in errors[0]["loc"]:
        if isinstance(part, int):
            line += f"[{part}]"
        elif part not in ("body", "text", "pair", "messages"):  # the last three are names of forms, not of fields
            line += f".{part}" if line else part
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return " ".join(f"{line or 'body'}: {errors[0]['msg']}{more}".split())


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
