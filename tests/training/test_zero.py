"""Two workers and a lone one are spawned once, go through all checks, and leave what they saw to the tests below."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tiny import make_classifier, write_backbone
from torch import Tensor

from rayclf.config import TrainConfig
from rayclf.errors import ConfigError, RayclfError
from rayclf.model.network import Network
from rayclf.training import zero
from rayclf.training.strategies import Replicated, Strategy, make_strategy

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed")

RATE, LENGTH = 3e-3, 7
# Rows of each pass of each worker, step by step: their numbers differ, and in the fourth step one worker has none.
PASSES = [((3, 2), (4,)), ((2,), (3,)), ((2, 1, 3), (2, 2)), ((3,), ()), ((1, 2), (3, 3)), ((2,), (4, 1))]
EARLY, LATE, ALL = range(3), range(3, 6), range(6)
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "bf16": {"tuning": "lora", "dtype": torch.bfloat16},
    **({"qlora": {"tuning": "qlora"}} if importlib.util.find_spec("bitsandbytes") else {}),
}
# Kind of network, stage, offload, and the size up to which stage 3 keeps weights whole: 0 parts all of them.
CASES = [
    ("full", 1, "none", 0),
    ("full", 2, "none", 0),
    ("full", 3, "none", 0),
    ("full", 2, "optimizer", 0),
    ("full", 3, "parameters", 0),
    ("bf16", 1, "none", 0),
    ("bf16", 2, "none", 0),
    ("bf16", 3, "optimizer", 100),
    *((("qlora", 2, "none", 0), ("qlora", 3, "none", 0)) if "qlora" in KINDS else ()),
]


@dataclass
class Run:
    """Losses and gradient norms of each step, and the weights and optimizer state at the end."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def settings(strategy: str = "single", **fields: Any) -> TrainConfig:
    return TrainConfig.model_validate({"strategy": strategy, "weight_decay": 0.1, "max_grad_norm": 0.5, **fields})


def rows(step: int, rank: int) -> list[tuple[Tensor, Tensor]]:
    """Ids and targets of each pass of a worker in a step."""
    draw = torch.Generator().manual_seed(10 * step + rank)
    return [
        (torch.randint(5, 300, (n, LENGTH), generator=draw), torch.randint(0, 3, (n,), generator=draw))
        for n in PASSES[step][rank]
    ]


def network(folder: Path, kind: str = "full", weights: dict[str, Tensor] | None = None) -> Network:
    made = make_classifier(folder, **KINDS[kind]).network.train()
    if weights:
        made.load_state_dict(weights, strict=False)
    return made


def train(strategy: Strategy, steps: range, *, rank: int | None = None, kind: str = "full") -> Run:
    """Steps of one worker, or for rank None those of both workers in one process."""
    run = Run()
    for step in steps:
        mine = rows(step, 0) + rows(step, 1) if rank is None else rows(step, rank)
        dummies = max(map(len, PASSES[step])) - len(mine) if strategy.equal_passes and rank is not None else 0
        passes = mine + [(torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, dtype=torch.long))] * dummies
        total = torch.zeros(())
        for number, (ids, targets) in enumerate(passes, start=1):
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
                logits = strategy.network(ids, attention_mask=torch.ones_like(ids))
            loss = F.cross_entropy(logits, targets, reduction="sum") / sum(map(sum, PASSES[step]))
            if number > len(mine):
                loss = loss * 0
            strategy.backward(loss, number == len(passes))
            total += loss.detach()
        if rank is not None:
            dist.all_reduce(total)
        run.losses.append(float(total))
        run.norms.append(strategy.update(RATE))
    run.weights, run.state = strategy.weights(), strategy.optimizer_state()
    return run


def same(run: Run, wanted: Run, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(run.losses, wanted.losses, atol=tolerance, rtol=0)
    torch.testing.assert_close(run.norms, wanted.norms, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(run.weights, wanted.weights, atol=tolerance, rtol=0)
    torch.testing.assert_close(run.state, wanted.state, atol=tolerance, rtol=0)


# --- in the processes ------------------------------------------------------------------------------------------------


def _work(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if rank == 2:
        torch.save(_alone(folder / "backbone"), folder / "alone")
        return
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        torch.save(
            _together(rank, folder / "backbone", torch.load(folder / "start", weights_only=False)), folder / str(rank)
        )
    finally:
        dist.destroy_process_group()


def _alone(backbone: Path) -> dict[int, Run]:
    return {stage: train(make_strategy(network(backbone), settings(f"deepspeed-zero{stage}")), ALL) for stage in (2, 3)}


def _together(rank: int, backbone: Path, start: Run) -> dict[str, Any]:
    saw: dict[str, Any] = {}
    noise = io.StringIO()

    def make(kind: str, stage: int, offload: str, persistent: int, start: Run | None = None) -> Strategy:
        made = network(backbone, kind, start and start.weights)
        zero._PERSISTENT = persistent
        with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            strategy = make_strategy(made, settings(f"deepspeed-zero{stage}", offload=offload))
        if start:
            strategy.load_optimizer_state(start.state)
        return strategy

    with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
        import deepspeed  # noqa: F401  # its loggers keep the stream that they find now
    for case in CASES:
        kind = case[0]
        saw[f"run {case}"] = train(make(*case), ALL, rank=rank, kind=kind)
    for stage in (1, 2, 3):
        strategy = make("full", stage, "none", 0, start)
        saw[f"untouched {stage}"] = Run(weights=strategy.weights(), state=strategy.optimizer_state())
        saw[f"resumed {stage}"] = train(strategy, LATE, rank=rank)
    halves = train(make("full", 2, "none", 0), EARLY, rank=rank)
    saw["half"] = halves
    everywhere: list[Any] = [halves]
    dist.broadcast_object_list(everywhere)
    strategy = make("full", 3, "none", 0, everywhere[0])
    _evaluate(rank, strategy, saw)
    saw["half resumed"] = train(strategy, LATE, rank=rank)
    saw["noise"] = noise.getvalue()
    return saw


def _evaluate(rank: int, strategy: Strategy, saw: dict[str, Any]) -> None:
    """Evaluations in which the workers have different numbers of passes, and in which one of them fails."""
    (ids, _), *_ = rows(0, 0)

    def forward(evaluated: Network) -> Tensor:
        evaluated.eval()
        with torch.no_grad():
            result = evaluated(ids, attention_mask=torch.ones_like(ids))
        evaluated.train()
        return result

    for name, passes in (("first", (3, 0)), ("second", (0, 1)), ("none", (0, 0))):
        with strategy.evaluating() as evaluated:
            saw[f"evaluation {name}"] = [forward(evaluated) for _ in range(passes[rank])]
            saw["facade"] = evaluated.device, evaluated.training
    for name, passes in (("busy", 2), ("done", 0)):
        try:
            with strategy.evaluating() as evaluated:
                if rank == 1:
                    raise ValueError("mine")
                for _ in range(passes):
                    forward(evaluated)
        except (ValueError, RayclfError) as error:
            saw[f"failure {name}"] = error


# --- what they saw ---------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the workers saw, and the same training by Replicated in one process."""

    workers: list[dict[str, Any]]
    alone: dict[int, Run]
    wanted: dict[str, Run]
    start: Run
    backbone: Path

    def __getitem__(self, name: str) -> Any:
        return self.workers[0][name]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("zero")
    backbone = write_backbone(folder / "backbone", "llama")
    wanted = {kind: train(Replicated(network(backbone, kind), settings()), ALL, kind=kind) for kind in KINDS}
    start = train(Replicated(network(backbone), settings()), EARLY)
    torch.save(start, folder / "start")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.start_processes(_work, (port, folder), nprocs=3, start_method="spawn")
    load: Callable[[str], Any] = lambda name: torch.load(folder / name, weights_only=False)  # noqa: E731
    return Seen([load("0"), load("1")], load("alone"), wanted, start, backbone)


@needs_deepspeed
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_trains_as_replicated_does(seen: Seen, case: tuple[str, int, str, int]) -> None:
    run, wanted = seen[f"run {case}"], seen.wanted[case[0]]
    assert max(wanted.norms) > 2 * 0.5  # so that clipping has a part in it
    same(run, wanted, 1e-5 if case[0] != "bf16" else 2e-3)
    assert {tensor.dtype for tensor in run.weights.values()} == {torch.float32}


@needs_deepspeed
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_first_worker_alone_gets_whole_tensors(seen: Seen, case: tuple[str, int, str, int]) -> None:
    run, other, wanted = seen[f"run {case}"], seen.workers[1][f"run {case}"], seen.wanted[case[0]]
    assert not other.weights
    assert not other.state
    assert all(tensor.numel() for tensor in run.weights.values())
    assert run.weights.keys() == run.state.keys() == wanted.weights.keys()
    names = {name: p.shape for name, p in network(seen.backbone, case[0]).named_parameters() if p.requires_grad}
    assert {name: tensor.shape for name, tensor in run.weights.items()} == names
    assert [state["step"].item() for state in run.state.values()] == [len(ALL)] * len(names)


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_one_worker_makes_its_own_group(seen: Seen, stage: int) -> None:
    same(seen.alone[stage], seen.wanted["full"])


def late(run: Run) -> Run:
    return Run(run.losses[3:], run.norms[3:], run.weights, run.state)


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_goes_on_from_replicated(seen: Seen, stage: int) -> None:
    untouched = seen[f"untouched {stage}"]
    torch.testing.assert_close(untouched.weights, seen.start.weights, atol=0, rtol=0)
    torch.testing.assert_close(untouched.state, seen.start.state, atol=0, rtol=0)
    same(seen[f"resumed {stage}"], late(seen.wanted["full"]))


@needs_deepspeed
def test_replicated_goes_on_from_zero(seen: Seen) -> None:
    half = seen["half"]
    strategy = Replicated(network(seen.backbone, "full", half.weights), settings())
    strategy.load_optimizer_state(half.state)
    same(train(strategy, LATE), late(seen.wanted["full"]))


@needs_deepspeed
def test_stage_3_goes_on_from_stage_2_and_evaluation_leaves_no_trace(seen: Seen) -> None:
    same(seen["half resumed"], late(seen.wanted["full"]))


@needs_deepspeed
def test_each_worker_evaluates_as_much_as_it_has(seen: Seen) -> None:
    (ids, _), *_ = rows(0, 0)
    with torch.no_grad():
        wanted = network(seen.backbone, "full", seen["half"].weights).eval()(ids, torch.ones_like(ids))
    for rank, name, passes in ((0, "first", 3), (1, "second", 1)):
        logits = seen.workers[rank][f"evaluation {name}"]
        assert len(logits) == passes
        for each in logits:
            torch.testing.assert_close(each, wanted, atol=1e-5, rtol=0)
        assert seen.workers[1 - rank][f"evaluation {name}"] == []
    assert seen["facade"] == (torch.device("cpu"), True)


@needs_deepspeed
@pytest.mark.parametrize("others", ["busy", "done"])
def test_failure_in_an_evaluation_reaches_all_workers(seen: Seen, others: str) -> None:
    assert isinstance(seen.workers[1][f"failure {others}"], ValueError)
    with pytest.raises(RayclfError, match="another worker failed"):
        raise seen[f"failure {others}"]


@needs_deepspeed
def test_deepspeed_is_quiet(seen: Seen) -> None:
    assert [worker["noise"] for worker in seen.workers] == ["", ""]


@pytest.mark.parametrize("stage", [1, 2])
def test_weights_stay_on_the_device_below_stage_3(stage: int) -> None:
    config = settings(f"deepspeed-zero{stage}", offload="parameters")
    with pytest.raises(ConfigError, match=r"train\.offload: parameters needs train\.strategy deepspeed-zero3"):
        make_strategy(torch.nn.Linear(2, 2), config)  # type: ignore[arg-type]


def test_missing_deepspeed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(ConfigError) as caught:
        zero._import("deepspeed-zero2", "cpu")
    assert str(caught.value) == "train.strategy: deepspeed-zero2 needs DeepSpeed; install rayclf[deepspeed]"
