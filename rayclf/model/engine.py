"""The one inference path: text → tokens → batches → logits → probabilities → labels.

Evaluation, scoring and serving all call :class:`Classifier`; nothing else turns text into probabilities.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

from rayclf.data.texts import Form, messages_json
from rayclf.data.tokens import Encoding, Ids, Text
from rayclf.errors import ConfigError, DataError, ResourceError
from rayclf.labels import Floats, LabelSpace, ProblemType
from rayclf.model.artifact import load_artifact
from rayclf.model.info import ArtifactInfo, find_artifact
from rayclf.model.network import Network
from rayclf.model.packing import Batching, make_inputs, plan_batches

Precision = Literal["auto", "fp32", "bf16"]
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

    def __init__(
        self,
        network: Network,
        encoding: Encoding,
        info: ArtifactInfo,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        max_tokens: int | None = None,
        batching: Batching = "auto",
    ) -> None:
        """Wrap a network; ``max_tokens`` bounds the tokens of a batch (4,096 on a CPU, 32,768 elsewhere).

        ``batching`` is how rows share a batch, which changes no logit: ``padded``, ``packed`` into one sequence without
        padding, or ``auto``, packed on a GPU where the backbone can. Raises ConfigError for ``packed`` where it cannot.
        """
        self.network = network
        self.encoding = encoding
        self.info = info
        self.space: LabelSpace = info.space
        self.precision = precision
        self.max_tokens = max_tokens or (4096 if network.device.type == "cpu" else 32768)
        self.packed = choose_batching(batching, network)
        self._thresholds = np.asarray(info.thresholds, dtype=np.float32)

    @classmethod
    def load(
        cls,
        artifact: str | os.PathLike[str],
        *,
        device: str = "auto",
        precision: Precision = "auto",
        max_tokens: int | None = None,
        batching: Batching = "auto",
    ) -> Classifier:
        """Load an artifact or a run folder.

        ``device`` is a PyTorch device or ``auto`` (CUDA where there is one). ``precision`` ``auto`` is float32 on a
        CPU and bfloat16 on a GPU that computes in it. ``max_tokens`` and ``batching`` are those of the constructor.
        Raises ArtifactError, BackboneError or ResourceError.
        """
        folder = find_artifact(artifact)
        place = choose_device(device)
        chosen = choose_precision("fp32" if precision == "auto" and place.type == "cpu" else precision, place)
        lowered = chosen == "bf16" and not (folder / "backbone").is_dir()
        network, encoding, info = load_artifact(folder, dtype=torch.bfloat16 if lowered else torch.float32)
        network.to(place).eval()
        return cls(network, encoding, info, precision=chosen, max_tokens=max_tokens, batching=batching)

    def encode(self, texts: Sequence[Input]) -> list[Ids]:
        """Token ids of each input, which must be of the form that the classifier was trained on.

        That is a string; or ``(text, text_pair)``, also as ``{"text": …, "text_pair": …}``; or a list of chat messages
        ``{"role": …, "content": …}``, also as its JSON. Raises DataError for what is something else or empty.
        """
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
        return self.encoding(ready)

    def forward(self, ids: Sequence[Ids]) -> Floats:
        """Raw logits ``[n, K]`` in float32 of token ids, in their order; batches are planned by length."""
        result = np.empty((len(ids), len(self.space)), dtype=np.float32)
        device = self.network.device
        training = self.network.training
        self.network.eval()
        try:
            # no_grad, not inference_mode: backbones cache tensors (rotary tables) that training reads afterwards.
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                for batch in plan_batches([len(row) for row in ids], self.max_tokens, self.packed):
                    inputs = make_inputs([ids[i] for i in batch], self.info.pad_token_id, self.packed)
                    result[batch] = self.network(**inputs.to(device).arguments()).cpu().numpy()
        finally:
            self.network.train(training)
        return result

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

    def interpret(self, probabilities: Floats) -> list[Prediction]:
        """Probabilities ``[n, K]`` as Predictions, by the artifact's thresholds."""
        names = self.space.names
        holds = self.space.decide(probabilities, self._thresholds)
        best = probabilities.argmax(axis=1)
        predictions = []
        for row, mask, top in zip(probabilities, holds, best, strict=True):
            label, score = names[top], float(row[top])
            if self.space.problem_type is ProblemType.BINARY and not mask[0]:
                label, score = self.space.negative, 1.0 - score
            held = [names[i] for i in np.flatnonzero(mask)]
            predictions.append(Prediction(label, score, held, dict(zip(names, row.tolist(), strict=True))))
        return predictions


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
            raise DataError("must be a pair of strings that are not empty: (text, text_pair)")
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
        reason = " ".join(str(error).split())[:200]
        raise ResourceError(f"--device {name}: not to be had here; use auto, cpu or cuda ({reason})") from None
    return device


def choose_precision(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """``auto`` is bfloat16 where the device computes in it: a GPU from Ampere on, a CPU with AMX or AVX512-BF16.

    Raises ConfigError for another word: an unknown precision would silently be float32.
    """
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision}: must be one of {', '.join(get_args(Precision))}")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported() else "fp32"
    return "fp32"


def choose_batching(batching: Batching, network: Network) -> bool:
    """Whether batches are packed: ``auto`` is so on a GPU where the backbone can, since padding is all it saves.

    Raises ConfigError for another word, or for ``packed`` with a backbone that cannot.
    """
    if batching not in get_args(Batching):
        raise ConfigError(f"batching {batching}: must be one of {', '.join(get_args(Batching))}")
    if batching == "packed" and not network.packs:
        raise ConfigError(f"batching packed: a backbone of type {network.config.model_type} cannot; use auto or padded")
    return batching == "packed" or (batching == "auto" and network.device.type == "cuda" and network.packs)
