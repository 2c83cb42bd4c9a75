from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TEXTS, Made

from rayclf.config import LoraConfig, TrainConfig
from rayclf.data.tokens import TokenBatch
from rayclf.model.adapters import add_lora
from rayclf.model.artifact import load_weights, save_artifact
from rayclf.model.backbone import load_network
from rayclf.model.engine import Classifier
from rayclf.model.network import Network
from rayclf.training.checkpoints import Progress, is_whole, load_optimizer_state, load_progress, save_state
from rayclf.training.losses import TrainingLoss
from rayclf.training.step import micro_batches, train_step
from rayclf.training.strategies import Replicated

Make = Callable[..., Made]


def batch(made: Made, step: int) -> TokenBatch:
    targets = np.eye(3, dtype=np.float32)[(np.arange(len(TEXTS)) * (step + 1)) % 3]
    return TokenBatch(np.arange(len(TEXTS)), made.encoding(TEXTS), targets)


def step(made: Made, strategy: Replicated, number: int) -> None:
    train_step(
        strategy,
        micro_batches(batch(made, number), 64, made.info.pad_token_id),
        TrainingLoss(made.info.space.problem_type, TrainConfig()),
        learning_rate=1e-2,
        device=torch.device("cpu"),
    )


def save(folder: Path, made: Made, strategy: Replicated, progress: Progress) -> None:
    """As worker 0 does."""
    save_artifact(folder / "artifact", strategy.network, made.tokenizer, made.info, strategy.weights())
    save_state(folder, strategy.optimizer_state(), progress)


def resumed(made: Made, folder: Path) -> Network:
    """As a worker that takes the place of a dead one makes its network."""
    lora = made.info.tuning == "lora"
    saved = folder / "artifact"
    network = load_network(made.source if lora else saved / "backbone", made.info.space, seed=77, dropout=0.0)
    load_weights(network, saved, made.info, merge=False, trainable=True)
    return network


@pytest.mark.parametrize("name", ["llama", "bert", "modernbert"])
def test_training_goes_on_as_if_never_interrupted(make: Make, tuning: str, name: str, tmp_path: Path) -> None:
    made = make(name, tuning="full", moved=False).with_info(tuning=tuning)
    network = load_network(made.source, made.info.space, seed=3, dropout=0.0)
    if tuning == "lora":
        add_lora(network, LoraConfig(r=4))
    strategy = Replicated(network, TrainConfig())
    for number in range(3):
        step(made, strategy, number)
    progress = Progress(3, best=0.5, stale=1)
    save(tmp_path, made, strategy, progress)

    other = resumed(made, tmp_path)
    again = Replicated(other, TrainConfig())
    again.load_optimizer_state(load_optimizer_state(tmp_path))
    assert load_progress(tmp_path) == progress
    old, new = strategy.optimizer_state(), again.optimizer_state()
    assert set(new) == set(old) == {n for n, p in network.named_parameters() if p.requires_grad}
    for name, values in old.items():
        assert set(values) == {"step", "exp_avg", "exp_avg_sq"}
        for key, tensor in values.items():
            assert torch.equal(new[name][key], tensor)
            assert new[name][key].dtype == tensor.dtype

    step(made, strategy, 3)
    step(made, again, 3)
    expected = dict(network.named_parameters())
    for key, parameter in other.named_parameters():
        assert torch.equal(parameter, expected[key]), key


def test_a_checkpoint_is_an_artifact_and_holds_no_pickle(make: Make, tuning: str, tmp_path: Path) -> None:
    made = make("llama", tuning=tuning)
    strategy = Replicated(made.network, TrainConfig())
    step(made, strategy, 0)
    save(tmp_path, made, strategy, Progress(1))
    made.network.eval()
    loaded = Classifier.load(tmp_path, device="cpu")
    np.testing.assert_allclose(loaded.probabilities(TEXTS), made.classifier.probabilities(TEXTS), atol=1e-5)
    assert {f.name for f in tmp_path.iterdir()} == {"artifact", "state.json", "state.safetensors"}
    kinds = {f.suffix for f in tmp_path.rglob("*") if f.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja"}


def test_a_checkpoint_before_the_first_step(make: Make, tmp_path: Path) -> None:
    made = make("bert")
    strategy = Replicated(made.network, TrainConfig())
    save(tmp_path, made, strategy, Progress())
    strategy.load_optimizer_state(load_optimizer_state(tmp_path))
    assert not any(strategy.optimizer_state().values())
    assert load_progress(tmp_path) == Progress(0)


def test_progress_knows_the_best_and_how_long_ago_it_was() -> None:
    progress = Progress(7)
    ranks = [0.5, 0.5, float("nan"), 0.4, 0.6, -1.0]
    told = []
    for rank in ranks:
        progress = progress.ranked(rank)
        told.append((progress.best, progress.stale))
    assert told == [(0.5, 0), (0.5, 1), (0.5, 2), (0.5, 3), (0.6, 0), (0.6, 1)]
    assert progress.step == 7
    assert Progress().ranked(float("nan")) == Progress(stale=1)


@pytest.mark.parametrize(
    "name", ["state.json", "state.safetensors", "artifact/rayclf.json", "artifact/head.safetensors", "artifact"]
)
def test_a_checkpoint_cut_short_or_gone_is_not_whole(make: Make, name: str, tmp_path: Path) -> None:
    made = make("bert", moved=False)
    strategy = Replicated(load_network(made.source, made.info.space), TrainConfig())
    step(made, strategy, 0)
    save(tmp_path, made, strategy, Progress(1))
    assert is_whole(tmp_path)
    file = tmp_path / name
    if file.is_file():
        file.write_bytes(file.read_bytes()[:-1] if file.suffix == ".safetensors" else file.read_bytes()[:20])
        assert not is_whole(tmp_path)
    file.rename(tmp_path / "elsewhere")
    assert not is_whole(tmp_path)
