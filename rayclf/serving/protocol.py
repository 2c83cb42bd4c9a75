"""The native HTTP protocol: what a request may hold and what the answer looks like.

The other protocols take the forms of an input, and their limits, from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, StringConstraints, Tag
from pydantic_core import PydanticCustomError

from rayclf.serving.answer import Answer

if TYPE_CHECKING:
    from rayclf.model.engine import Input

MAX_INPUTS, MAX_CHARACTERS = 1024, 200_000
MAX_MESSAGES = 1024
_MAX_LINE = 500

# --- inputs ---------------------------------------------------------------------------------------------------------
# The tags of forms are in <>, so that an error's place, which holds them between names of fields, can leave them out.


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "Text should not be empty")
    return text


def _form(value: Any) -> str | None:
    """Which of the three forms an input has, so that an error speaks of that one alone."""
    if isinstance(value, str):
        return "<text>"
    if not isinstance(value, list | tuple):
        return None
    return "<messages>" if value and isinstance(value[0], dict | Message) else "<pair>"


def _one_or_many(value: Any) -> str | None:
    return "<one>" if isinstance(value, str) else "<many>" if isinstance(value, list | tuple) else None


Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]
Content = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class Message(BaseModel):
    """One message of a chat; other fields than these go to the backbone's chat template as they are."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: Content | None = None


Messages = Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
Item = Annotated[
    Annotated[Text, Tag("<text>")]
    | Annotated[tuple[Text, Text], Tag("<pair>")]
    | Annotated[Messages, Tag("<messages>")],
    Discriminator(
        _form,
        custom_error_type="input_form",
        custom_error_message="Input should be a text, a pair [text, text_pair] or a list of chat messages",
    ),
]
Items = Annotated[list[Item], Field(min_length=1, max_length=MAX_INPUTS)]
TextOrItems = Annotated[
    Annotated[Text, Tag("<one>")] | Annotated[Items, Tag("<many>")],
    Discriminator(
        _one_or_many, custom_error_type="input_form", custom_error_message="Input should be a text or a list of inputs"
    ),
]


def plain(items: str | Sequence[str | tuple[str, str] | list[Message]]) -> list[Input]:
    """Validated inputs as a classifier takes them; one text is a list of one."""
    if isinstance(items, str):
        return [items]
    return [
        [message.model_dump(exclude_none=True) for message in item] if isinstance(item, list) else item
        for item in items
    ]


def error_line(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors as one line that names the place: ``inputs[3]: Text should not be empty``.

    The name of an unknown field is the client's own, and may be as long as the body.
    """
    line = ""
    for part in errors[0]["loc"]:
        if isinstance(part, int):
            line += f"[{part}]"
        elif part != "body" and not (part.startswith("<") and part.endswith(">")):
            line += f".{part}" if line else part
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if len(line) > _MAX_LINE:
        line = f"{line[:_MAX_LINE]}…"
    return " ".join(f"{line or 'body'}: {errors[0]['msg']}{more}".split())


# --- POST /v1/classify ----------------------------------------------------------------------------------------------


class ClassifyRequest(BaseModel):
    """What to classify: texts, or what else the classifier was trained to read."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"inputs": ["Which organelle makes ATP?"], "top_k": 2}]}
    )

    inputs: Items = Field(
        description="Texts; [text, text_pair] each, or a list of chat messages each, where the classifier reads those.",
    )
    model: ModelName | None = Field(None, description="Which model to ask, where several are served.")
    top_k: int | None = Field(None, ge=1, description="Give only so many of the most probable labels; all when unset.")
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Decide which labels hold by this probability in place of the model's own thresholds. "
        "A multiclass label below it does not hold.",
    )
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


def reply(request: ClassifyRequest, answer: Answer) -> ClassifyResponse:
    """What the classifier said, in the form that the request asks for."""
    if request.threshold is not None:
        answer = answer.with_threshold(request.threshold)
    names, results = answer.space.names, []
    shown = answer.logits if request.output == "logits" else answer.probabilities
    order = np.argsort(-answer.logits, axis=1, kind="stable")[:, : request.top_k]
    for (label, score), labels, row, places in zip(answer.best(), answer.held(), shown, order, strict=True):
        asked = dict(zip((names[place] for place in places), row[places].tolist(), strict=True))
        results.append(Result(label=label, score=score, labels=labels, **{request.output: asked}))
    return ClassifyResponse(model=answer.model, results=results, usage=Usage(tokens=sum(answer.tokens)))
