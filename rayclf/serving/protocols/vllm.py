"""vLLM's ``POST /classify``, as ``vllm/entrypoints/pooling/classify/protocol.py`` defines it.

Fields that cannot change a probability (``user``, ``priority``, ``request_id``, ``cache_salt``…) are let be, as there;
those that could and that a classifier of ours cannot do are refused. A text that is too long is cut as it was in
training, where vLLM refuses it: the length that counts is the classifier's, not the backbone's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Response
from fastapi.params import Depends
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from rayclf.serving.answer import Endpoint
from rayclf.serving.api_errors import invalid
from rayclf.serving.json_body import JsonRoute, json_answer
from rayclf.serving.protocol import Messages, ModelName, TextOrItems, plain
from rayclf.serving.protocols.classification_form import ClassificationResponse, in_form


class VllmClassificationRequest(BaseModel):
    """vLLM's ClassificationCompletionRequest (``input``) or ClassificationChatRequest (``messages``)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["Which organelle makes ATP?"]}]})

    model: ModelName | None = Field(None, description="Which model to ask, where several are served.")
    input: TextOrItems | None = Field(None, description="A text or a list of texts; token ids are not taken.")
    messages: Messages | None = Field(None, description="One list of chat messages, in the place of `input`.")
    use_activation: bool | None = Field(None, description="False gives raw logits in `probs`.")
    activation: bool | None = Field(None, description="The older name of `use_activation`.")
    softmax: bool | None = Field(None, description="The oldest name of `use_activation`.")
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = Field(
        None, description="-1 or at least the model's own max_length: texts are always cut to that."
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="The end of a text is cut; with `left` a text that is too long is refused."
    )
    add_special_tokens: Literal[True] | None = Field(None, description="Special tokens are those of training.")

    @model_validator(mode="after")
    def _input_or_messages(self) -> VllmClassificationRequest:
        if (self.input is None) == (self.messages is None):
            raise PydanticCustomError("one_input", "give either input or messages")
        return self

    @property
    def raw(self) -> bool:
        """Whether logits are asked for: the newest of the three names that is given decides."""
        given = (self.use_activation, self.activation, self.softmax)
        return next((value for value in given if value is not None), True) is False


def router(endpoint: Callable[[], Endpoint], checks: Sequence[Depends] = ()) -> APIRouter:
    """``POST /classify``."""
    routes = APIRouter(route_class=JsonRoute, dependencies=checks, tags=["vLLM"])

    @routes.post("/classify", response_model=ClassificationResponse)
    async def classify(request: VllmClassificationRequest) -> Response:
        """Classify texts as vLLM does: the most probable label and the probabilities of all, in their order."""
        await _check_length(endpoint(), request)
        items = [request.messages] if request.messages is not None else request.input or []
        answer = await endpoint().answer(plain(items), request.model, truncate=request.truncation_side != "left")
        return json_answer(in_form(answer, numbers="logits" if request.raw else "probs", field="probs"))

    return routes


async def _check_length(endpoint: Endpoint, request: VllmClassificationRequest) -> None:
    """Refuse to cut a text shorter than in training: nobody has measured what the classifier then says."""
    if request.truncate_prompt_tokens in (None, -1):
        return
    longest = (await endpoint.model(request.model)).info.max_length
    if request.truncate_prompt_tokens < longest:
        line = f"truncate_prompt_tokens: should be -1, or at least {longest}, to which this model cuts texts"
        raise invalid(line)
