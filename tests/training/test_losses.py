from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from rayclf.config import TrainConfig
from rayclf.data.weights import LabelWeights
from rayclf.labels import ProblemType
from rayclf.training.losses import TrainingLoss

CPU = torch.device("cpu")
NAN = float("nan")
WEIGHTS = LabelWeights(np.float32([0.02, 0.5, 7.0]), np.float32([1.5, 0.1, 1.0]))


@pytest.fixture(params=[None, WEIGHTS], ids=["plain", "weighted"])
def weights(request: pytest.FixtureRequest) -> LabelWeights | None:
    """No label weights, and some."""
    return request.param


def drawn(kind: ProblemType, rows: int = 11, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets, some unknown where they can be."""
    random = np.random.default_rng(seed)
    logits = torch.tensor(random.normal(0, 2, (rows, 3)), dtype=torch.float32)
    if kind is ProblemType.MULTICLASS:
        return logits, torch.eye(3)[torch.tensor(random.integers(0, 3, rows))]
    targets = torch.tensor(random.choice([0.0, 1.0, np.nan], (rows, 3)), dtype=torch.float32)
    targets[0, 0] = 1.0
    return logits, targets


def loss_of(kind: ProblemType, weights: LabelWeights | None = None, **settings: object) -> TrainingLoss:
    return TrainingLoss.on(CPU, kind, TrainConfig.model_validate(settings), weights)


def mean(loss: TrainingLoss, logits: torch.Tensor, targets: torch.Tensor) -> float:
    return float(loss.total(logits, targets) / loss.terms(targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_torchs_own(kind: ProblemType, weights: LabelWeights | None, smoothing: float) -> None:
    logits, targets = drawn(kind)
    ours = mean(loss_of(kind, weights, label_smoothing=smoothing), logits, targets)
    positive = torch.tensor(weights.positive) if weights else None
    if kind is ProblemType.MULTICLASS:
        theirs = F.cross_entropy(logits, targets.argmax(dim=1), weight=positive, label_smoothing=smoothing)
    else:
        known = ~targets.isnan()
        smooth = targets[known] * (1 - smoothing) + smoothing / 2
        each = F.binary_cross_entropy_with_logits(logits[known], smooth, reduction="none")
        if weights is not None and positive is not None:
            sides = torch.where(targets == 1, positive, torch.tensor(weights.negative))
            each = each * sides[known]
        theirs = each.mean()
    assert ours == pytest.approx(float(theirs), rel=1e-5)


def test_weights_of_1_are_no_weights(kind: ProblemType) -> None:
    logits, targets = drawn(kind)
    ones = LabelWeights(np.ones(3, np.float32), np.ones(3, np.float32))
    assert mean(loss_of(kind, ones), logits, targets) == pytest.approx(mean(loss_of(kind), logits, targets))


@pytest.mark.parametrize("name", ["auto", "focal", "asymmetric"])
@pytest.mark.parametrize("kind", [ProblemType.BINARY, ProblemType.MULTILABEL])  # a multiclass row is always known
def test_unknown_targets_give_no_gradient(kind: ProblemType, weights: LabelWeights | None, name: str) -> None:
    targets = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, NAN]])
    logits = torch.randn(2, 3, requires_grad=True, generator=torch.Generator().manual_seed(2))
    loss = loss_of(kind, weights, loss=name)
    loss.total(logits, targets).backward()
    assert logits.grad is not None
    assert (logits.grad != 0).tolist() == [[True, False, True], [False, False, False]]
    assert loss.terms(targets) == 2


def test_unknown_targets_hide_even_infinite_logits() -> None:
    targets = torch.tensor([[1.0, NAN]])
    logits = torch.tensor([[0.0, 1e30]], requires_grad=True)
    loss = loss_of(ProblemType.MULTILABEL).total(logits, targets)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0


# --- focal and asymmetric --------------------------------------------------------------------------------------------


def test_focal_is_its_papers_formula(kind: ProblemType) -> None:
    logits, targets = drawn(kind)
    ours = float(loss_of(kind, loss="focal", focal_gamma=1.5).total(logits, targets))
    wanted = 0.0
    for row, target in zip(logits.double(), targets, strict=True):
        if kind is ProblemType.MULTICLASS:
            p = row.softmax(0)[target.argmax()]
            wanted -= float((1 - p) ** 1.5 * p.log())
            continue
        for logit, truth in zip(row.sigmoid(), target, strict=True):
            if not truth.isnan():
                p = logit if truth == 1 else 1 - logit
                wanted -= float((1 - p) ** 1.5 * p.log())
    assert ours == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["focal", "asymmetric"])
def test_without_focus_it_is_cross_entropy(name: str) -> None:
    kind = ProblemType.MULTILABEL
    logits, targets = drawn(kind)
    flat = loss_of(kind, loss=name, focal_gamma=0, asymmetric_gamma=0, asymmetric_clip=0)
    assert mean(flat, logits, targets) == pytest.approx(mean(loss_of(kind), logits, targets), rel=1e-5)


def test_asymmetric_is_its_papers_formula_and_forgets_easy_negatives() -> None:
    loss = loss_of(ProblemType.MULTILABEL, loss="asymmetric", asymmetric_gamma=4, asymmetric_clip=0.05)
    p = torch.tensor([0.3, 0.6, 0.04])
    logits = torch.logit(p)[None].requires_grad_()
    total = loss.total(logits, torch.tensor([[1.0, 0.0, 0.0]]))
    assert total.item() == pytest.approx(-np.log(0.3) - 0.55**4 * np.log(1 - 0.55), rel=1e-4)
    total.backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0


@given(st.sampled_from(["auto", "focal", "asymmetric"]), st.floats(-1e4, 1e4), st.sampled_from([0.0, 1.0]))
def test_losses_and_gradients_are_finite_for_any_logit(name: str, logit: float, truth: float) -> None:
    logits = torch.tensor([[logit]], requires_grad=True)
    loss = loss_of(ProblemType.BINARY, loss=name).total(logits, torch.tensor([[truth]]))
    loss.backward()
    assert loss.isfinite()
    assert loss.item() >= 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
