from __future__ import annotations

import copy
import itertools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import TEXTS, Made
from torch import nn

from rayclf.config import TrainConfig
from rayclf.data.tokens import TokenBatch
from rayclf.data.weights import LabelWeights
from rayclf.labels import ProblemType
from rayclf.training.losses import TrainingLoss
from rayclf.training.step import MicroBatch, micro_batches, train_step
from rayclf.training.strategies import Replicated, all_sum

Make = Callable[..., Made]
CPU = torch.device("cpu")
NAN = float("nan")
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
# Powers apart, and small: the weights of a batch of one row add up to less than 1.
WEIGHTS = LabelWeights(np.float32([0.02, 0.5, 7.0]), np.float32([1.5, 0.1, 1.0]))


@pytest.fixture(params=[None, WEIGHTS], ids=["plain", "weighted"])
def weights(request: pytest.FixtureRequest) -> LabelWeights | None:
    """No label weights, and some."""
    return request.param


class Bag(nn.Module):
    """A network small enough to send to other processes: the mean of the tokens' embeddings, and a linear layer."""

    def __init__(self, labels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embed = nn.Embedding(20, 6)
        self.out = nn.Linear(6, labels)
        self.unused = nn.Linear(2, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        weights = attention_mask.unsqueeze(-1).float()
        pooled = (self.embed(input_ids) * weights).sum(1) / weights.sum(1)
        return self.out(pooled).float()


def make_batch(kind: ProblemType, rows: int, labels: int = 3, seed: int = 0) -> TokenBatch:
    random = np.random.default_rng(seed)
    ids = [random.integers(1, 20, random.integers(1, 9)).astype(np.int32) for _ in range(rows)]
    if kind is ProblemType.MULTICLASS:
        targets = np.eye(labels, dtype=np.float32)[random.integers(0, labels, rows)]
    else:
        targets = random.choice([0.0, 1.0, np.nan], (rows, labels)).astype(np.float32)
        targets[0, 0] = 1.0
    return TokenBatch(np.arange(rows), ids, targets)


def part(batch: TokenBatch, rows: slice) -> TokenBatch:
    return TokenBatch(batch.rows[rows], batch.input_ids[rows], batch.targets[rows])


def mean_loss(
    logits: torch.Tensor, targets: torch.Tensor, kind: ProblemType, weights: LabelWeights | None = None
) -> torch.Tensor:
    """By PyTorch's own means."""
    positive = torch.tensor(weights.positive) if weights else None
    if kind is ProblemType.MULTICLASS:
        return F.cross_entropy(logits, targets.argmax(dim=1), weight=positive)
    known = ~targets.isnan()
    if weights is None:
        return F.binary_cross_entropy_with_logits(logits[known], targets[known])
    # pos_weight is the weight of a 1 over that of a 0, and the element's weight is then that of a 0. PyTorch adds it to
    # numbers of order 1, so that a small one keeps its digits in float64 alone.
    negative = torch.tensor(weights.negative).double()
    share, zero = (side.expand_as(targets)[known] for side in (positive / negative, negative))
    return F.binary_cross_entropy_with_logits(
        logits[known].double(), targets[known].double(), weight=zero, pos_weight=share
    )


class Kept(Replicated):
    """Plain gradient descent, whose gradients can be looked at afterwards."""

    def __init__(self, network: nn.Module, max_grad_norm: float = 1e9) -> None:
        super().__init__(network, TrainConfig(max_grad_norm=max_grad_norm))
        self._rows = {}
        for module in network.modules():
            if isinstance(module, nn.Embedding):
                module.sparse = False
        self._optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
        self._optimizer.zero_grad = lambda set_to_none=True: None


def adam(network: nn.Module, **settings: Any) -> Replicated:
    """What training uses."""
    return Replicated(network, TrainConfig(weight_decay=0.0, **settings))


def step(
    network: nn.Module,
    batch: TokenBatch,
    kind: ProblemType,
    *,
    tokens: int = 12,
    strategy: Replicated | None = None,
    weights: LabelWeights | None = None,
    learning_rate: float = 0.1,
    **settings: Any,
) -> Any:
    loss = TrainingLoss.on(CPU, kind, TrainConfig(), weights)
    micros = micro_batches(batch, tokens, 0)
    return train_step(strategy or Kept(network), micros, loss, learning_rate=learning_rate, device=CPU, **settings)


def logits_of(network: nn.Module, micro: MicroBatch) -> torch.Tensor:
    return network(**micro.inputs.arguments())


# --- one process -----------------------------------------------------------------------------------------------------


def agree(network: nn.Module, whole: nn.Module) -> None:
    """Both have the same gradients; one that PyTorch has not made is zero."""
    for mine, other in zip(network.parameters(), whole.parameters(), strict=True):
        assert mine.grad is not None
        wanted = other.grad if other.grad is not None else torch.zeros_like(mine)
        torch.testing.assert_close(mine.grad, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 12, 30, 1000])
def test_micro_batches_give_the_gradient_of_the_whole(
    kind: ProblemType, tokens: int, weights: LabelWeights | None
) -> None:
    batch = make_batch(kind, 23)
    network = Bag()
    result = step(network, batch, kind, tokens=tokens, weights=weights)
    whole = Bag()
    (only,) = micro_batches(batch, 10_000, 0)
    loss = mean_loss(logits_of(whole, only), only.targets, kind, weights)
    loss.backward()
    assert result.loss == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    norm = torch.stack([p.grad.norm() for p in whole.parameters() if p.grad is not None]).norm()
    assert result.grad_norm == pytest.approx(norm.item(), rel=1e-5, abs=1e-5)
    assert (result.rows, result.tokens) == (23, sum(map(len, batch.input_ids)))
    agree(network, whole)


_SIDE = st.lists(st.floats(2**-10, 2**10, width=32), min_size=3, max_size=3).map(np.float32)


@steady
@given(
    kind=st.sampled_from(list(ProblemType)),
    weights=st.builds(LabelWeights, _SIDE, _SIDE),
    rows=st.integers(1, 12),
    tokens=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_any_weights_over_any_micro_batches_are_the_whole_batch(
    kind: ProblemType, weights: LabelWeights, rows: int, tokens: int, seed: int
) -> None:
    batch, network, whole = make_batch(kind, rows, seed=seed), Bag(), Bag()
    (only,) = micro_batches(batch, 10_000, 0)
    loss = mean_loss(logits_of(whole, only), only.targets, kind, weights)
    loss.backward()
    # Weights of 1024 make gradients of 1024, in float32: compare what is left when both are scaled to order 1.
    scale = 1 / max(1.0, float(np.concatenate([weights.positive, weights.negative]).max()))
    result = step(network, batch, kind, tokens=tokens, weights=weights)
    assert result.loss == pytest.approx(loss.item(), rel=1e-3)
    for model in (network, whole):
        for parameter in model.parameters():
            parameter.grad = scale * parameter.grad if parameter.grad is not None else None
    agree(network, whole)


def test_weights_that_add_up_to_less_than_1_still_divide() -> None:
    batch = make_batch(ProblemType.MULTICLASS, 2)
    batch.targets[:] = [1, 0, 0]  # two rows of weight 0.02: a mean over them is that of two rows of weight 1
    weighted, plain = Bag(), Bag()
    result = step(weighted, batch, ProblemType.MULTICLASS, weights=WEIGHTS)
    assert result.loss == pytest.approx(step(plain, batch, ProblemType.MULTICLASS).loss, rel=1e-5)
    agree(weighted, plain)


@pytest.mark.parametrize("name", ["llama", "bert", "modernbert"])
def test_micro_batches_of_a_transformer_give_the_gradient_of_the_whole(
    make: Make, name: str, tuning: str, kind: ProblemType
) -> None:
    made = make(name, tuning=tuning, kind=kind)
    size = len(made.info.space)
    whole = copy.deepcopy(made.network)
    batch = TokenBatch(np.arange(len(TEXTS)), made.encoding(TEXTS), make_batch(kind, len(TEXTS), size).targets)
    trainable = [p for p in made.network.parameters() if p.requires_grad]
    result = step(made.network, batch, kind, tokens=60)
    (only,) = micro_batches(batch, 10_000, made.info.pad_token_id)
    loss = mean_loss(logits_of(whole, only), only.targets, kind)
    loss.backward()
    assert result.loss == pytest.approx(loss.item(), abs=1e-6)
    wanted = [p.grad for p in whole.parameters() if p.requires_grad]
    for mine, other in zip(trainable, wanted, strict=True):
        assert other is not None
        assert mine.grad is not None
        torch.testing.assert_close(mine.grad, other, atol=1e-6, rtol=1e-4)


def test_rows_without_tokens_train_too(make: Make) -> None:
    made = make("llama")
    batch = TokenBatch(np.arange(2), [np.empty(0, np.int32)] * 2, np.eye(3, dtype=np.float32)[:2])
    result = step(made.network, batch, ProblemType.MULTICLASS)
    assert np.isfinite([result.loss, result.grad_norm]).all()
    assert result.tokens == 2


def test_targets_stay_with_their_rows() -> None:
    batch = make_batch(ProblemType.MULTICLASS, 17)
    seen = {}
    for micro in micro_batches(batch, 12, 0):
        for ids, mask, target in zip(micro.inputs.input_ids, micro.inputs.attention_mask, micro.targets, strict=True):
            seen[tuple(ids[mask.bool()].tolist())] = target.tolist()
    assert seen == {tuple(ids.tolist()): row.tolist() for ids, row in zip(batch.input_ids, batch.targets, strict=True)}


def test_a_batch_of_unknown_targets_alone_has_no_gradient(weights: LabelWeights | None) -> None:
    batch = make_batch(ProblemType.MULTILABEL, 3)
    batch.targets[:] = np.nan
    result = step(Bag(), batch, ProblemType.MULTILABEL, weights=weights)
    assert (result.loss, result.grad_norm, result.rows) == (0.0, 0.0, 3)


def test_gradients_are_clipped(kind: ProblemType) -> None:
    batch = make_batch(kind, 9)
    free, clipped = Bag(), Bag()
    start = [p.detach().clone() for p in free.parameters()]
    norm = step(free, batch, kind).grad_norm
    limit = norm / 4
    assert step(clipped, batch, kind, strategy=Kept(clipped, limit)).grad_norm == pytest.approx(norm, rel=1e-5)
    total = torch.stack([p.grad.norm() for p in clipped.parameters() if p.grad is not None]).norm()
    assert total.item() == pytest.approx(limit, rel=1e-4)
    for begin, one, other in zip(start, free.parameters(), clipped.parameters(), strict=True):
        torch.testing.assert_close(other.detach() - begin, (one.detach() - begin) / 4, atol=1e-6, rtol=1e-3)


def test_gradients_are_cleared_after_the_step(kind: ProblemType) -> None:
    network = Bag()
    step(network, make_batch(kind, 9), kind, strategy=adam(network))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_signals_come_back(kind: ProblemType) -> None:
    network = Bag()
    assert step(network, make_batch(kind, 2), kind, signals=(False, True)).signals == (False, True)


def test_loss_falls(make: Make, tuning: str, kind: ProblemType) -> None:
    made = make("bert", tuning=tuning, kind=kind, moved=False)
    targets = make_batch(kind, len(TEXTS), len(made.info.space)).targets
    batch = TokenBatch(np.arange(len(TEXTS)), made.encoding(TEXTS), targets)
    strategy = adam(made.network)
    losses = [step(made.network, batch, kind, tokens=90, strategy=strategy, learning_rate=1e-2).loss for _ in range(15)]
    assert losses[-1] < 0.5 * losses[0]


def test_bf16_computes_the_backbone_low_and_keeps_head_and_gradients_float32(make: Make, tuning: str) -> None:
    dtype = torch.bfloat16 if tuning == "lora" else torch.float32
    made = make("llama", tuning=tuning, dtype=dtype)
    exact = make("llama", tuning=tuning)
    seen: dict[str, torch.dtype] = {}
    attention = next(m for name, m in made.network.named_modules() if name.endswith("layers.0.self_attn"))
    attention.register_forward_hook(lambda module, args, out: seen.update(attention=out[0].dtype))
    made.network.head.out.register_forward_hook(
        lambda module, args, out: seen.update(into=args[0].dtype, out=out.dtype)
    )
    batch = TokenBatch(
        np.arange(len(TEXTS)), made.encoding(TEXTS), make_batch(ProblemType.MULTICLASS, len(TEXTS)).targets
    )
    trained = [p for p in made.network.parameters() if p.requires_grad]
    result = step(made.network, batch, ProblemType.MULTICLASS, tokens=90, bf16=True)
    assert seen == {"attention": torch.bfloat16, "into": torch.float32, "out": torch.float32}
    assert {p.dtype for p in trained} == {p.grad.dtype for p in trained if p.grad is not None} == {torch.float32}
    wanted = step(exact.network, batch, ProblemType.MULTICLASS, tokens=90)
    assert result.loss == pytest.approx(wanted.loss, rel=0.05)


# --- several processes -----------------------------------------------------------------------------------------------

_STEPS = 3
_SHARDS = [[slice(0, 7), slice(7, 8)], [slice(8, 8), slice(8, 13)], [slice(13, 20), slice(20, 20)]]  # [step][rank]

_CASES = list(itertools.product(ProblemType, [None, WEIGHTS]))


def _work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    try:
        torch.save([_train(kind, rank, weights) for kind, weights in _CASES], f"{folder}/{rank}")
    finally:
        dist.destroy_process_group()


def _train(kind: ProblemType, rank: int | None, weights: LabelWeights | None) -> Any:
    """Three steps on the rows of a rank, or on all rows for None; the weights and the losses."""
    batch, network = make_batch(kind, 20), Bag()
    strategy = Replicated(network, TrainConfig(max_grad_norm=0.5, weight_decay=0.1))
    results = []
    for shards in _SHARDS:
        mine = shards[rank] if rank is not None else slice(shards[0].start, shards[1].stop)
        rows = part(batch, mine)
        told = (rank == 1, False)
        results.append(
            step(network, rows, kind, tokens=14, strategy=strategy, weights=weights, learning_rate=0.05, signals=told)
        )
    sums = [torch.full((3,), 1.0 + (rank or 0)), torch.full((2, 2), 10 + (rank or 0)), torch.tensor([[5.0]]).T]
    all_sum(sums)
    state = strategy.optimizer_state()
    signals = [r.signals for r in results]
    return network.state_dict(), [(r.loss, r.grad_norm, r.rows, r.tokens) for r in results], signals, sums, state


def test_uneven_shards_of_two_processes_train_as_one_process(tmp_path: Path) -> None:
    """One worker is out of rows in the second step, the other in the third; all end alike."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(_work, (port, str(tmp_path)), nprocs=2, start_method="spawn")
    saved = [torch.load(tmp_path / str(rank)) for rank in range(2)]
    for (case, (kind, weights)), rank in itertools.product(enumerate(_CASES), range(2)):
        state, results, *_, moments = _train(kind, None, weights)
        other, theirs, signals, sums, theirs_moments = saved[rank][case]
        assert signals == [(True, False)] * 3  # what one worker says, all hear
        assert set(theirs_moments) == (set(moments) if rank == 0 else set())
        assert [s.tolist() for s in sums] == [[3.0] * 3, [[21, 21], [21, 21]], [[10.0]]]
        for name, tensor in state.items():
            torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=0)
        for mine, one in zip(results, theirs, strict=True):
            assert one == pytest.approx(mine, abs=1e-5)


def test_all_sum_alone_changes_nothing() -> None:
    tensor = torch.ones(3)
    all_sum([tensor])
    assert tensor.tolist() == [1.0] * 3
