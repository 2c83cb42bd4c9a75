from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TEXTS, Made

from rayclf.config import LoraConfig
from rayclf.data.tokens import TokenBatch
from rayclf.model.adapters import add_lora
from rayclf.model.artifact import load_weights
from rayclf.model.backbone import Network, load_network
from rayclf.model.engine import Classifier
from rayclf.training.checkpoints import Progress, load_optimizer, load_progress, save_checkpoint
from rayclf.training.optimizer import make_optimizer
from rayclf.training.step import micro_batches, train_step

Make = Callable[..., Made]


def batch(made: Made, step: int) -> TokenBatch:
    targets = np.eye(3, dtype=np.float32)[(np.arange(len(TEXTS)) * (step + 1)) % 3]
    return TokenBatch(np.arange(len(TEXTS)), made.encoding(TEXTS), targets)


def step(made: Made, network: Network, optimizer: torch.optim.Optimizer, number: int) -> None:
    network.train()
    train_step(
        network,
        micro_batches(batch(made, number), 64, made.info.pad_token_id),
        optimizer,
        made.info.space.problem_type,
        device=torch.device("cpu"),
        max_grad_norm=1.0,
    )


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
    optimizer = make_optimizer(network, 1e-2, 0.01)
    for number in range(3):
        step(made, network, optimizer, number)
    save_checkpoint(tmp_path, network, made.tokenizer, made.info, optimizer, Progress(epoch=1, step=3))

    other = resumed(made, tmp_path)
    again = make_optimizer(other, 1e-2, 0.01)
    load_optimizer(tmp_path, again)
    assert load_progress(tmp_path) == Progress(epoch=1, step=3)
    old, new = optimizer.state_dict(), again.state_dict()
    assert new["param_groups"] == old["param_groups"]
    assert set(new["state"]) == set(old["state"])
    for index, values in old["state"].items():
        assert set(values) == {"step", "exp_avg", "exp_avg_sq"}
        for key, tensor in values.items():
            assert torch.equal(new["state"][index][key], tensor)
            assert new["state"][index][key].dtype == tensor.dtype

    names = [n for n, p in network.named_parameters() if p.requires_grad]
    assert names == [n for n, p in other.named_parameters() if p.requires_grad]
    step(made, network, optimizer, 3)
    step(made, other, again, 3)
    expected = dict(network.named_parameters())
    for key, parameter in other.named_parameters():
        assert torch.equal(parameter, expected[key]), key


def test_a_checkpoint_is_an_artifact_and_holds_no_pickle(make: Make, tuning: str, tmp_path: Path) -> None:
    made = make("llama", tuning=tuning)
    optimizer = make_optimizer(made.network, 1e-2, 0.01)
    step(made, made.network, optimizer, 0)
    save_checkpoint(tmp_path, made.network, made.tokenizer, made.info, optimizer, Progress(0, 1))
    made.network.eval()
    loaded = Classifier.load(tmp_path, device="cpu")
    np.testing.assert_allclose(loaded.probabilities(TEXTS), made.classifier.probabilities(TEXTS), atol=1e-5)
    assert {f.name for f in tmp_path.iterdir()} == {"artifact", "state.json", "state.safetensors"}
    kinds = {f.suffix for f in tmp_path.rglob("*") if f.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja"}


def test_a_checkpoint_before_the_first_step(make: Make, tmp_path: Path) -> None:
    made = make("bert")
    optimizer = make_optimizer(made.network, 1e-2, 0.01)
    save_checkpoint(tmp_path, made.network, made.tokenizer, made.info, optimizer, Progress())
    load_optimizer(tmp_path, optimizer)
    assert optimizer.state_dict()["state"] == {}
    assert load_progress(tmp_path) == Progress(0, 0)
