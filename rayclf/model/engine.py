"""The one inference path: text → tokens → batches → logits → probabilities → labels.

Evaluation, scoring and serving all call :class:`Classifier`; nothing else turns text into probabilities.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from rayclf.data.texts import Form, messages_json
from rayclf.data.tokens import Encoding, Ids, Text
from rayclf.errors import ConfigError, DataError, ResourceError, one_line
from rayclf.labels import Floats, LabelSpace
from rayclf.model.artifact import load_artifact
from rayclf.model.info import ArtifactInfo, find_artifact, read_info
from rayclf.model.packing import Batching
from rayclf.model.runtime import Precision, Runtime, RuntimeName
from rayclf.model.runtime.choice import choose_runtime
from rayclf.model.runtime.pytorch import TorchRuntime

Message = Mapping[str, Any]
Input = str | tuple[str, str] | Mapping[str, str] | Sequence[Message]  # a text, a pair in two spellings, chat messages


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one text.

    ``label`` and ``score`` are the most probable label and its probability (for a binary task the label or its
    negation), ``labels`` those that hold after thresholds, ``probabilities`` one for every label.
    """

    label: str
    score: float
    labels: list[str]
    probabilities: dict[str, float]


class Classifier:
    """A classifier ready to use, in any process; it needs no Ray.

    >>> classifier = Classifier.load("runs/x")
    >>> classifier.predict(["Which organelle makes ATP?"])[0].label
    'biology'
    """

    def __init__(self, runtime: Runtime, encoding: Encoding, info: ArtifactInfo) -> None:
        """Put a runtime, which makes logits of token ids, between the encoding of texts and the reading of logits."""
        self.runtime = runtime
        self.encoding = encoding
        self.info = info
        self.space: LabelSpace = info.space
        self._thresholds = np.asarray(info.thresholds, dtype=np.float32)

    @property
    def precision(self) -> str:
        """``fp32``, ``bf16`` or ``int8``: what the backbone computes in."""
        return self.runtime.precision

    @classmethod
    def load(
        cls,
        artifact: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: Precision = "auto",
        runtime: RuntimeName = "auto",
        max_tokens: int | None = None,
        batching: Batching = "auto",
        expected_rows: int = 1,
    ) -> Classifier:
        """Load an artifact or a run folder.

        ``device`` is a PyTorch device or ``auto`` (CUDA where there is one). ``precision`` ``auto`` is float32 on a
        CPU and bfloat16 on a GPU that computes in it. ``max_tokens`` bounds the tokens of a batch (1,024 on a CPU, what
        fits the free memory of a GPU). ``batching`` is how rows share a batch, which changes no logit: ``padded``,
        ``packed`` into one sequence without padding, or ``auto``, packed on a GPU where the backbone can. ``runtime``
        is ``torch``, or ``onnx`` (ONNX Runtime, for encoders on a CPU; the only one with ``int8``); ``auto`` is
        ``onnx`` for ``int8``, and in float32 where it can be had and ``expected_rows``, about how many are to come, pay
        for the time that it takes to prepare: from 1,000 on. Raises ArtifactError, BackboneError, ConfigError or
        ResourceError.
        """
        folder = find_artifact(artifact)
        place = choose_device(device)
        if precision == "auto" and place.type == "cpu":
            precision = "fp32"
        chosen = "int8" if precision == "int8" else choose_precision(precision, place)
        rows = expected_rows if batching == "auto" else 1  # a word for PyTorch is a word against another runtime
        name = choose_runtime(runtime, place, chosen, read_info(folder).backbone.model_type, rows)
        lowered = chosen == "bf16" and not (folder / "backbone").is_dir()
        network, encoding, info = load_artifact(folder, dtype=torch.bfloat16 if lowered else torch.float32)
        network.to(place).eval()
        if name == "onnx":
            from rayclf.model.runtime.onnx import OnnxRuntime

            low: Literal["fp32", "int8"] = "int8" if chosen == "int8" else "fp32"
            try:
                prepared = OnnxRuntime(network, info.pad_token_id, precision=low, max_tokens=max_tokens)
                return cls(prepared, encoding, info)
            except ConfigError:  # what only the network's parts tell, such as an activation that it has not
                if runtime == "onnx" or low == "int8":
                    raise
        high: Literal["fp32", "bf16"] = "bf16" if chosen == "bf16" else "fp32"
        ready = TorchRuntime(network, info.pad_token_id, precision=high, max_tokens=max_tokens, batching=batching)
        return cls(ready, encoding, info)

    def encode(self, texts: Sequence[Input]) -> list[Ids]:
        """Token ids of each input, which must be of the form that the classifier was trained on.

        That is a string; or ``(text, text_pair)``, also as ``{"text": …, "text_pair": …}``; or a list of chat messages
        ``{"role": …, "content": …}``, also as its JSON. Raises DataError for what is something else or empty.
        """
        return self.encoding(self._checked(texts))

    def lengths(self, texts: Sequence[Input]) -> list[int]:
        """Tokens of each input before it is cut to ``max_length``; raises what :meth:`encode` does."""
        return self.encoding.lengths(self._checked(texts))

    def _checked(self, texts: Sequence[Input]) -> list[Text]:
        if isinstance(texts, str):
            raise DataError("texts must be a list of strings, not one string; put it in a list")
        form, ready = self.info.reads.form, list[Text]()
        for number, text in enumerate(texts, start=1):
            try:
                ready.append(_as_text(text, form))
            except DataError as error:
                raise DataError(f"text {number} of {len(texts)} {error}") from None
        for position, problem in self.encoding.problems(ready).items():
            raise DataError(f"text {position + 1} of {len(texts)}: {problem}")
        return ready

    def forward(self, ids: Sequence[Ids]) -> Floats:
        """Raw logits ``[n, K]`` in float32 of token ids, in their order; equal rows are computed once."""
        first: dict[bytes, int] = {}
        source = [first.setdefault(row.tobytes(), len(first)) for row in ids]
        if len(first) == len(ids):
            return self.runtime(ids)
        kept = dict(zip(reversed(source), reversed(ids), strict=True))
        return self.runtime([kept[place] for place in range(len(first))])[source]

    def logits(self, texts: Sequence[Input]) -> Floats:
        """Raw logits ``[n, K]`` in float32, in the order of ``texts``; raises DataError for what is not text."""
        return self.forward(self.encode(texts))

    def probabilities(self, texts: Sequence[Input]) -> Floats:
        """Probabilities ``[n, K]`` in float32: a softmax (multiclass) or a sigmoid each, after temperature."""
        return self.to_probabilities(self.logits(texts))

    def to_probabilities(self, logits: Floats) -> Floats:
        """Raw logits to probabilities, both ``[n, K]``."""
        return self.space.probabilities(logits / np.float32(self.info.temperature))

    def calibrate(self, temperature: float, thresholds: Sequence[float]) -> None:
        """Take another temperature and thresholds ``[K]``, in this object and its ``info``."""
        self.info = self.info.model_copy(update={"temperature": temperature, "thresholds": list(thresholds)})
        self._thresholds = np.asarray(thresholds, dtype=np.float32)

    def predict(self, texts: Sequence[Input]) -> list[Prediction]:
        """Labels with their probabilities, one Prediction a text (or pair, or list of chat messages)."""
        return self.interpret(self.probabilities(texts))

    def decide(self, probabilities: Floats) -> npt.NDArray[np.bool_]:
        """Which labels hold by the artifact's thresholds, ``[n, K]``, of probabilities ``[n, K]``."""
        return self.space.decide(probabilities, self._thresholds)

    def interpret(self, probabilities: Floats) -> list[Prediction]:
        """Probabilities ``[n, K]`` as Predictions, by the artifact's thresholds."""
        holds = self.decide(probabilities)
        found = zip(self.space.best(probabilities, holds), self.space.held(holds), probabilities.tolist(), strict=True)
        return [
            Prediction(label, score, held, dict(zip(self.space.names, row, strict=True)))
            for (label, score), held, row in found
        ]


def _as_text(value: Any, form: Form) -> Text:
    """One input as what the encoding takes; raises DataError that goes on after "text 3 of 5"."""
    if form == "messages":
        try:
            return messages_json(value)
        except DataError as error:
            raise DataError(
                f'must be a list of chat messages [{{"role": "user", "content": "…"}}, …]: {error}'
            ) from None
    if form == "pair":
        if isinstance(value, Mapping) and value.keys() == {"text", "text_pair"}:
            value = (value["text"], value["text_pair"])
        if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(_is_text, value)):
            raise DataError("must be a pair of strings that are not empty: (text, text_pair), by --pair in a command")
        return value[0], value[1]
    if isinstance(value, tuple | list | Mapping):
        raise DataError("must be one string; this classifier reads neither pairs nor chat messages")
    if not _is_text(value):
        raise DataError("is empty or not a string")
    return str(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def choose_device(name: str = "auto") -> torch.device:
    """A PyTorch device by name; ``auto`` is CUDA where there is one. Raises ResourceError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = one_line(error)
        raise ResourceError(f"--device {name}: not to be had here; use auto, cpu or cuda ({reason})") from None
    return device


def choose_precision(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """``auto`` is bfloat16 where the device computes in it: a GPU from Ampere on, a CPU with AMX or AVX512-BF16.

    Raises ConfigError for another word: an unknown precision would silently be float32.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"precision {precision}: must be one of {', '.join(get_args(Precision))}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else "fp32"
    return "fp32"
