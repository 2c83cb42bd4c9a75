"""What the driver tells each worker. Light to import: Ray's controller unpickles it too, and needs no model code."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayclf.config import Config
from rayclf.data.tokens import Encoding
from rayclf.data.weights import LabelWeights
from rayclf.labels import LabelSpace
from rayclf.own_metrics import OwnMetric


@dataclass(frozen=True)
class Job:
    """One training job; travels by pickle inside one cluster.

    ``info`` is the artifact's description in JSON form, ``dataset`` the folder of the prepared data set with ``rows``
    of each part, ``journal`` the actor that writes the run folder. ``weights`` weigh the labels in the training loss;
    metrics are never weighted. ``prior`` is what logits ``[K]`` begin with. ``own`` are the user's metrics.
    """

    config: Config
    space: LabelSpace
    encoding: Encoding
    info: Mapping[str, Any]
    learning_rate: float
    dataset: str
    rows: Mapping[str, int]
    journal: Any
    weights: LabelWeights | None = None
    prior: npt.NDArray[np.float32] | None = None
    own: tuple[OwnMetric, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one pass."""
        return -(-self.rows["train"] // self.config.train.batch_size)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.steps_per_epoch * self.config.train.epochs


def train_loop(settings: dict[str, Any]) -> None:
    """Ray Train's entry into each worker; ``settings["job"]`` is a :class:`Job`."""
    gc.disable()  # what PyTorch and Transformers consist of is no garbage; the search for it is a sixth of their import
    from rayclf.training.worker import Worker

    gc.freeze()
    gc.enable()
    Worker(settings["job"]).run()
