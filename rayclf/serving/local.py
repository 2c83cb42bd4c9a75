"""Models in this process behind the contract of the protocols: texts in, an answer in arrays out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from rayclf.data.tokens import Ids
from rayclf.errors import ArtifactError, DataError
from rayclf.model.engine import Classifier, Input
from rayclf.model.info import find_artifact, read_info
from rayclf.model.multi_adapter import forward_mixed
from rayclf.serving.answer import Answer, ModelFacts
from rayclf.serving.api_errors import invalid, not_found, unavailable
from rayclf.serving.batching import Batcher, BatchReport, Expired, Overloaded
from rayclf.serving.host import Host, LoadSettings, UnknownModel

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}
_SMALL = 4096  # characters that are tokenized sooner than a thread takes over
_FIRST: dict[str, Input] = {
    "text": "ready",
    "pair": ("ready", "ready"),
    "messages": [{"role": "user", "content": "ready"}],
}


class LocalModels:
    """An :class:`~rayclf.serving.answer.Endpoint` that computes here; it belongs to one event loop."""

    def __init__(
        self,
        models: Mapping[str, str],
        *,
        max_models: int | None = None,
        timeout_s: float = 60.0,
        settings: LoadSettings | None = None,
        report: Callable[[BatchReport], None] | None = None,
    ) -> None:
        """Serve ``models``, artifacts by name; the first answers requests that name none.

        At most ``max_models`` are in memory. A request that would take longer than ``timeout_s`` is refused.
        """
        self.host = Host(models, max_models=max_models, settings=settings)
        self.batcher: Batcher[Classifier] | None = None
        self._models, self._timeout_s, self._report = models, timeout_s, report

    async def start(self) -> None:
        """Load the first model and classify with it, so that the first request finds everything warm.

        Raises what loading raises.
        """
        async with self.host.use(self._name(None)) as classifier:
            device = getattr(getattr(classifier.runtime, "network", None), "device", None)
            most = _BATCH_TOKENS["cuda" if device is not None and device.type == "cuda" else "cpu"]
            self.batcher = Batcher(forward_mixed, max_tokens=most, max_wait_s=self._timeout_s, report=self._report)
            ids = classifier.encode([_FIRST[classifier.info.reads.form]])
            await self.batcher.submit(ids, classifier)

    async def answer(self, inputs: Sequence[Input], model: str | None, *, truncate: bool = True) -> Answer:
        """See :class:`~rayclf.serving.answer.Endpoint`."""
        name = self._name(model)
        if self.batcher is None:
            raise unavailable("the model is being loaded", 1, "starting")
        try:
            async with self.host.use(name) as classifier:
                small = sum(len(text) if isinstance(text, str) else _SMALL for text in inputs) < _SMALL
                encode = partial(_encode, classifier, inputs, truncate)
                ids = encode() if small else await asyncio.to_thread(encode)
                logits = await self.batcher.submit(ids, classifier, timeout_s=self._timeout_s)
                return Answer.of(classifier, name, np.stack(logits), [len(row) for row in ids])
        except UnknownModel as error:
            raise not_found(str(error)) from None
        except Overloaded as error:
            raise unavailable(str(error), error.retry_after, "overloaded") from None
        except Expired as error:
            raise unavailable(str(error), 1, "timeout") from None

    async def model(self, name: str | None) -> ModelFacts:
        """See :class:`~rayclf.serving.answer.Endpoint`."""
        name = self._name(name)
        if name not in self._models:
            raise not_found(f"model: '{name}' is not served here; GET /v1/models lists what is")
        loaded = self.host.peek(name)
        if loaded is not None:
            return ModelFacts(name, loaded.info, self.batcher is not None)
        try:
            info = await asyncio.to_thread(lambda: read_info(find_artifact(self._models[name])))
        except ArtifactError as error:
            raise not_found(f"model: '{name}' cannot be read ({error})") from None
        return ModelFacts(name, info, self.batcher is not None)

    async def models(self) -> list[ModelFacts]:
        """See :class:`~rayclf.serving.answer.Endpoint`."""
        return [await self.model(name) for name in self._models]

    async def close(self) -> None:
        """Answer what waits, then let the models go."""
        if self.batcher is not None:
            await self.batcher.close()
        await self.host.close()

    def _name(self, name: str | None) -> str:
        return next(iter(self._models)) if name is None else name


def _encode(classifier: Classifier, inputs: Sequence[Input], truncate: bool) -> list[Ids]:
    try:
        ids = classifier.encode(inputs)
    except DataError as error:  # a form that this classifier does not read, or refused by its chat template
        raise invalid(f"inputs: {error}") from None
    if not truncate:
        most = classifier.info.max_length
        full = [place for place, row in enumerate(ids) if len(row) >= most]
        lengths = classifier.lengths([inputs[place] for place in full])
        for place, length in zip(full, lengths, strict=True):
            if length > most:
                raise invalid(f"inputs[{place}]: {length} tokens are too many for this model, which reads {most}")
    return ids
