"""The training loss: summed over a micro-batch, and the count that the sum of the whole global batch is divided by.

=============  =====================================================================================================
cross-entropy  of multiclass; divided by the rows, or the sum of their weights (``CrossEntropyLoss(weight=…)``)
binary         cross-entropy of each known target; divided by the known targets (``BCEWithLogitsLoss(pos_weight=…)``)
focal          the same, times (1 - p)^gamma of the right answer's probability p (arXiv:1708.02002)
asymmetric     focal for negatives alone, whose probability is lowered by a margin first (arXiv:2009.14119)
=============  =====================================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rayclf.config import TrainConfig
from rayclf.data.weights import LabelWeights
from rayclf.labels import ProblemType


@dataclass(frozen=True, eq=False)  # tensors do not compare to one truth value
class TrainingLoss:
    """The loss of ``[n, K]`` logits against targets 1, 0 and NaN for unknown, which have none.

    ``positive`` and ``negative`` weigh the targets that are 1 and 0, float32 ``[K]``; None weighs nothing.
    """

    problem_type: ProblemType
    config: TrainConfig
    positive: Tensor | None = None
    negative: Tensor | None = None

    @classmethod
    def on(
        cls, device: torch.device, problem_type: ProblemType, config: TrainConfig, weights: LabelWeights | None
    ) -> TrainingLoss:
        """The loss with its weights on the device that trains."""
        if weights is None:
            return cls(problem_type, config)
        sides = (torch.tensor(side, device=device) for side in (weights.positive, weights.negative))
        return cls(problem_type, config, *sides)

    def total(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The summed loss of a micro-batch."""
        each = self._rows if self.problem_type is ProblemType.MULTICLASS else self._targets
        return each(logits, targets).sum()

    def terms(self, targets: Tensor) -> float:
        """What the sum is divided by for its mean: the rows, their weights, or the known targets."""
        if self.problem_type is not ProblemType.MULTICLASS:
            return float((~targets.isnan()).sum())
        if self.positive is None:
            return float(len(targets))
        return float(self.positive[targets.argmax(dim=1).to(self.positive.device)].sum())

    def _rows(self, logits: Tensor, targets: Tensor) -> Tensor:
        classes = targets.argmax(dim=1)
        losses = F.cross_entropy(
            logits, classes, weight=self.positive, label_smoothing=self.config.label_smoothing, reduction="none"
        )
        if self.config.loss == "focal":
            right = logits.log_softmax(dim=1).gather(1, classes[:, None]).squeeze(1).exp()
            losses = losses * (1 - right) ** self.config.focal_gamma
        return losses

    def _targets(self, logits: Tensor, targets: Tensor) -> Tensor:
        config, known, truth = self.config, ~targets.isnan(), targets == 1
        aims = targets.nan_to_num(0.0) * (1 - config.label_smoothing) + config.label_smoothing / 2
        if config.loss == "asymmetric":
            # A negative's probability less the margin; what is left of an easy one is 0, and so is its gradient.
            wrong = (logits.sigmoid() - config.asymmetric_clip).clamp(min=0)
            kept = torch.log1p(-wrong.clamp(max=1 - 1e-7))
            losses = -(aims * F.logsigmoid(logits) + (1 - aims) * kept * wrong**config.asymmetric_gamma)
        else:
            losses = F.binary_cross_entropy_with_logits(logits, aims, reduction="none")
            if config.loss == "focal":
                right = torch.where(truth, logits, -logits).sigmoid()
                losses = losses * (1 - right) ** config.focal_gamma
        if self.positive is not None and self.negative is not None:
            losses = losses * torch.where(truth, self.positive, self.negative)
        return losses * known
