"""Between the wire protocols and the application: one answer in arrays, whatever the wire looks like.

A protocol turns a request into inputs, asks an :class:`Endpoint`, and writes its :class:`Answer` in its own form. No
protocol knows Ray, a classifier or a batch; the application knows no protocol. Nothing here imports PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from rayclf.labels import Floats, LabelSpace, ProblemType

if TYPE_CHECKING:
    from rayclf.model.engine import Classifier, Input
    from rayclf.model.info import ArtifactInfo


@dataclass(frozen=True)
class Answer:
    """What a classifier said of the inputs of one request, in their order.

    ``logits`` are raw and ``probabilities`` after temperature, both ``[n, K]`` in float32; ``holds`` ``[n, K]`` says
    which labels hold after thresholds; ``tokens`` has the number of tokens of each input.
    """

    model: str
    space: LabelSpace
    logits: Floats
    probabilities: Floats
    holds: npt.NDArray[np.bool_]
    tokens: list[int]

    @classmethod
    def of(cls, classifier: Classifier, model: str, logits: Floats, tokens: Sequence[int]) -> Answer:
        """The answer of a classifier served as ``model``, from its raw logits ``[n, K]``."""
        probabilities = classifier.to_probabilities(logits)
        holds = classifier.decide(probabilities)
        return cls(model, classifier.space, logits, probabilities, holds, list(tokens))

    def with_threshold(self, threshold: float) -> Answer:
        """The same with one threshold for every label.

        A multiclass label, which the artifact's thresholds never touch, holds only when it also reaches this one.
        """
        reached = self.probabilities >= np.float32(threshold)
        single = self.space.problem_type is ProblemType.MULTICLASS
        return replace(self, holds=self.holds & reached if single else reached)

    def best(self) -> list[tuple[str, float]]:
        """The most probable label of each input and its probability; of a binary task the label or its negation."""
        return self.space.best(self.probabilities, self.holds)

    def held(self) -> list[list[str]]:
        """The labels that hold, by name, of each input."""
        return self.space.held(self.holds)


@dataclass(frozen=True)
class ModelFacts:
    """A model that can be asked for: its name in requests, its description, and whether requests for it are answered.

    A model that is loaded when it is first asked for counts as ready.
    """

    name: str
    info: ArtifactInfo
    ready: bool


class Endpoint(Protocol):
    """What the application offers to the protocols. ``model`` None is the one model, or the first of them."""

    async def answer(self, inputs: list[Input], model: str | None, *, truncate: bool = True) -> Answer:
        """Classify ``inputs``; without ``truncate`` one that is too long is refused. Raises ApiError."""
        ...

    async def model(self, name: str | None) -> ModelFacts:
        """The facts of one model; raises ApiError 404 when there is none of that name."""
        ...

    async def models(self) -> list[ModelFacts]:
        """The facts of every model."""
        ...
