"""DeepSpeed's ZeRO 3 on CUDA, one process, trains as ``Replicated`` does.

In a process of its own: DeepSpeed keeps its process group, its accelerator and its streams to the end of one.
"""

from __future__ import annotations

import importlib.util
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from random_network import (
    DEVICE,
    SIZES,
    Size,
    move_trained,
    one_step,
    random_batch,
    random_network,
    short,
    text_lengths,
)

from rayclf.config import TrainConfig
from rayclf.training.strategies import Replicated, Strategy, make_strategy

pytestmark = [
    pytest.mark.filterwarnings("default"),  # drivers and kernels warn of what is not ours to mend
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed"),
]

# Tuning, offload, and whether the steps compute in bf16.
CASES = [("full", "none", False), ("full", "parameters", False), ("lora", "none", True), ("lora", "optimizer", True)]
if importlib.util.find_spec("bitsandbytes"):
    CASES.append(("nf4", "none", True))
STEPS, RATE = 3, 1e-3


def small() -> Size:
    """Matrices large enough for stage 3 to part them (100,000 elements), so that they are gathered as those of 8 B."""
    fields = {"hidden_size": 512, "intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 4}
    return short(SIZES["8b"], 4, vocab_size=320, head_dim=64, **fields)


def train(strategy: Strategy, bf16: bool) -> dict[str, Any]:
    losses, norms = [], []
    for step in range(STEPS):
        batch = random_batch(small(), text_lengths(24, step, longest=100), step)
        result = one_step(strategy, batch, 512, packed=True, bf16=bf16, learning_rate=RATE)
        losses.append(result.loss)
        norms.append(result.grad_norm)
    return {"losses": losses, "norms": norms, "weights": strategy.weights(), "state": strategy.optimizer_state()}


def _work(rank: int, folder: Path) -> None:
    try:
        dist.init_process_group(
            "nccl" if DEVICE.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1
        )
        found = {}
        for tuning, offload, bf16 in CASES:
            both = []
            for name in ("single", "deepspeed-zero3"):
                network = random_network(small(), tuning)  # type: ignore[arg-type]
                move_trained(network, 0.0 if tuning == "full" else 0.02)
                start = {n: p.detach().cpu().clone() for n, p in network.named_parameters() if p.requires_grad}
                config = TrainConfig.model_validate(
                    {"strategy": name, "offload": offload if name != "single" else "none"}
                )
                strategy = make_strategy(network, config)
                assert isinstance(strategy, Replicated) == (name == "single")
                both.append({"start": start, **train(strategy, bf16)})
            found[tuning, offload] = both
        torch.save(found, folder / "found")
    except BaseException:
        (folder / "error").write_text(traceback.format_exc())
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(gpu: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("zero")
    try:
        torch.multiprocessing.start_processes(_work, (folder,), nprocs=1, start_method="spawn")
    except Exception:
        pytest.fail((folder / "error").read_text() if (folder / "error").exists() else "the process died")
    return torch.load(folder / "found", weights_only=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-offload-{case[1]}")
def test_trains_as_replicated_does(found: Any, case: tuple[str, str, bool]) -> None:
    """Weights by how far they have come: where a gradient is all but 0, Adam turns rounding into a whole step."""
    tuning, offload, bf16 = case
    wanted, got = found[tuning, offload]
    tolerance = 0.02 if bf16 else 1e-4
    assert got["losses"] == pytest.approx(wanted["losses"], rel=tolerance)
    assert got["norms"] == pytest.approx(wanted["norms"], rel=5 * tolerance)
    assert got["weights"].keys() == wanted["weights"].keys() == wanted["start"].keys()
    assert all(tensor.numel() and tensor.dtype == torch.float32 for tensor in got["weights"].values())
    off, way = 0.0, 0.0
    for name, tensor in wanted["weights"].items():
        off += float((got["weights"][name] - tensor).square().sum())
        way += float((tensor - wanted["start"][name]).square().sum())
    assert way > 0
    assert (off / way) ** 0.5 < (0.2 if bf16 else 0.02)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-offload-{case[1]}")
def test_gives_the_whole_state(found: Any, case: tuple[str, str, bool]) -> None:
    wanted, got = found[case[0], case[1]]
    assert got["state"].keys() == wanted["state"].keys()
    for name, state in wanted["state"].items():
        assert {k: v.shape for k, v in got["state"][name].items()} == {k: v.shape for k, v in state.items()}
        assert float(got["state"][name]["step"]) == STEPS
