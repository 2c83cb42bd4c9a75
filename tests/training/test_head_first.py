"""The head is fitted before the backbone is touched, to what the backbone makes of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from tiny import TEXTS, Made

from rayclf.config import TrainConfig
from rayclf.data.tokens import TokenBatch
from rayclf.training.head_first import HeadInputs
from rayclf.training.losses import TrainingLoss

Make = Callable[..., Made]
NUMBERS = np.random.default_rng(3).permutation(len(TEXTS))


def batches(made: Made, *, rank: int = 0, world: int = 1) -> Iterator[TokenBatch]:
    """Every text once, in the order of NUMBERS, five a batch of which each worker gets its share."""
    ids, labels = made.encoding(TEXTS), np.eye(3, dtype=np.float32)
    for start in range(0, len(NUMBERS), 5):
        rows = NUMBERS[start : start + 5][rank::world]
        yield TokenBatch(rows, [ids[row] for row in rows], labels[rows % 3])


def read(made: Made, packed: bool = False, **share: int) -> HeadInputs:
    return HeadInputs.read(
        made.network, batches(made, **share), NUMBERS, labels=3, max_tokens=40, pad_token_id=made.info.pad_token_id,
        packed=packed, bf16=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "bert"])
@pytest.mark.parametrize("packed", [False, True])
def test_each_row_has_its_state_and_targets(make: Make, name: str, packed: bool) -> None:
    made = make(name)
    made.network.train()
    found = read(made, packed)
    assert made.network.training
    with torch.no_grad():
        logits = made.network.eval().head(found.states)
    wanted = np.asarray(made.classifier.probabilities([TEXTS[row] for row in NUMBERS]))
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), wanted, atol=1e-5)
    assert found.targets.argmax(dim=1).tolist() == (NUMBERS % 3).tolist()


@pytest.mark.parametrize("moved", [False, True])
def test_adapters_which_begin_with_adding_nothing_are_left_out_and_trained_afterwards(make: Make, moved: bool) -> None:
    made = make("llama", tuning="lora", moved=moved)
    trained = {name for name, parameter in made.network.named_parameters() if parameter.requires_grad}
    found = read(made, packed=True)
    assert {name for name, parameter in made.network.named_parameters() if parameter.requires_grad} == trained
    with torch.no_grad():
        logits = made.network.eval().head(found.states)
    whole = np.asarray(made.classifier.probabilities([TEXTS[row] for row in NUMBERS]))
    assert np.allclose(logits.softmax(dim=1).numpy(), whole, atol=1e-5) is not moved


def test_workers_add_up_to_the_same(make: Make) -> None:
    made = make("bert")
    whole, parts = read(made), [read(made, rank=rank, world=2) for rank in range(2)]
    torch.testing.assert_close(parts[0].states + parts[1].states, whole.states)
    torch.testing.assert_close(parts[0].targets + parts[1].targets, whole.targets)


def test_the_head_alone_learns_and_the_same_each_time(make: Make) -> None:
    fitted = []
    for _ in range(2):
        made = make("bert", tuning="full", moved=False)
        before = {name: value.clone() for name, value in made.network.state_dict().items()}
        loss = TrainingLoss(made.info.space.problem_type, TrainConfig())
        first, last = read(made).fit(made.network, loss, seed=1)
        assert last < first
        after = made.network.state_dict()
        moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
        assert moved == {name for name in before if name.startswith("head.")}
        assert all(parameter.grad is None for parameter in made.network.parameters())
        fitted.append({name: value.clone() for name, value in after.items()})
    assert all(torch.equal(fitted[0][name], fitted[1][name]) for name in fitted[0])


def test_it_does_not_learn_the_rows_by_heart(make: Make) -> None:
    """A head that saw rows twenty times left the backbone nothing to learn (docs/benchmarks.md); five are enough."""
    made, seen = make("bert", tuning="full", moved=False), 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += len(inputs[0]) if torch.is_grad_enabled() else 0

    inputs = read(made)
    made.network.head.register_forward_pre_hook(count)
    inputs.fit(made.network, TrainingLoss(made.info.space.problem_type, TrainConfig()), seed=1)
    assert seen == 5 * len(NUMBERS)
