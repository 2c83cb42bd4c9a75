"""Two workers are spawned once, go through all checks, and leave what they saw to the tests below."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from peft.tuners.lora.layer import Linear
from tiny import make_classifier, write_backbone
from torch import Tensor, nn

from rayclf.config import TrainConfig
from rayclf.errors import ConfigError, RayclfError
from rayclf.model.checkpointing import enable_checkpointing
from rayclf.model.fused_lora import FusedLinear
from rayclf.model.network import Network
from rayclf.training import zero
from rayclf.training.strategies import Replicated, Strategy, make_strategy

needs_deepspeed = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed")

RATE, LENGTH = 3e-3, 7
# Rows of each pass of each worker, step by step: their numbers differ, and in the third step one worker has none.
PASSES = [((3, 2), (4,)), ((2,), (3,)), ((3,), ()), ((1, 2), (3, 3))]
EARLY, LATE, ALL = range(2), range(2, 4), range(4)
KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "bf16": {"tuning": "lora", "dtype": torch.bfloat16},
    **({"qlora": {"tuning": "qlora"}} if importlib.util.find_spec("bitsandbytes") else {}),
}
# Kind of network, stage, offload, the size up to which stage 3 keeps weights whole (0 parts all of them), and whether
# activations are computed again.
Case = tuple[str, int, str, int, bool]
CASES: list[Case] = [
    ("full", 1, "none", 0, False),
    ("full", 2, "optimizer", 0, False),
    ("full", 3, "none", 0, True),
    ("full", 3, "parameters", 0, False),
    ("bf16", 2, "none", 0, False),
    ("bf16", 3, "optimizer", 100, False),
    *([("qlora", 2, "none", 0, False), ("qlora", 3, "none", 0, True)] if "qlora" in KINDS else []),
]


def name_of(case: Case) -> str:
    return "-".join(map(str, case))


@dataclass
class Run:
    """Losses and gradient norms of each step, and the weights and optimizer state at the end."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, dict[str, Tensor]] = field(default_factory=dict)


def settings(strategy: str = "single", kind: str = "full", **fields: Any) -> TrainConfig:
    # In bfloat16 without clipping: a norm that differs in its last bit would turn to weights that round elsewhere.
    most = 1e6 if kind == "bf16" else 0.5
    return TrainConfig.model_validate({"strategy": strategy, "weight_decay": 0.1, "max_grad_norm": most, **fields})


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


def train(strategy: Strategy, steps: range, rank: int, kind: str = "full") -> Run:
    run = Run()
    for step in steps:
        mine = rows(step, rank)
        dummies = max(map(len, PASSES[step])) - len(mine) if strategy.equal_passes else 0
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
        dist.all_reduce(total)
        run.losses.append(float(total))
        run.norms.append(strategy.update(RATE))
    run.weights, run.state = strategy.weights(), strategy.optimizer_state()
    return run


def same(run: Run, wanted: Run) -> None:
    for part in ("losses", "norms", "weights", "state"):
        torch.testing.assert_close(getattr(run, part), getattr(wanted, part), atol=2e-5, rtol=1e-6, msg=part_of(part))


def part_of(part: str) -> Any:
    return lambda message: f"{part}: {message}"


# --- in the processes ------------------------------------------------------------------------------------------------


class _Same(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads


def _add_by_module(made: Network) -> Network:
    """Let the gradients of a value be added up module by module, as DeepSpeed's stage 3 does by wrapping all inputs."""

    def wrap(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        wrapped = [torch.is_tensor(value) and value.requires_grad for value in inputs]
        if not any(wrapped):
            return inputs
        passed = iter(_Same.apply(*[value for value, is_one in zip(inputs, wrapped, strict=True) if is_one]))
        return tuple(next(passed) if is_one else value for value, is_one in zip(inputs, wrapped, strict=True))

    for module in made.modules():
        module.register_forward_pre_hook(wrap)
    return made


def _work(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        torch.save(_together(rank, folder / "backbone"), folder / str(rank))
    finally:
        dist.destroy_process_group()


def _together(rank: int, backbone: Path) -> dict[str, Any]:
    saw: dict[str, Any] = {}
    noise = io.StringIO()

    def shared(run: Run) -> Run:
        everywhere: list[Any] = [run]
        dist.broadcast_object_list(everywhere)
        return everywhere[0]

    for kind in KINDS:
        saw[f"wanted {kind}"] = train(Replicated(network(backbone, kind), settings(kind=kind)), ALL, rank, kind)
    by_module = _add_by_module(network(backbone, "bf16"))
    by_module._short_last = False  # stage 3 reads all of every layer
    for layer in by_module.modules():
        if isinstance(layer, FusedLinear):
            layer.__class__ = Linear  # and PEFT computes layers whose weights are parted
    saw["wanted bf16 3"] = train(Replicated(by_module, settings(kind="bf16")), ALL, rank, "bf16")
    start = shared(train(Replicated(network(backbone), settings()), EARLY, rank))

    def make(kind: str, stage: int, offload: str, persistent: int, again: bool, start: Run | None = None) -> Strategy:
        made = network(backbone, kind, start and start.weights)
        if again:
            enable_checkpointing(made)
        zero._PERSISTENT = persistent
        with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
            strategy = make_strategy(made, settings(f"deepspeed-zero{stage}", kind, offload=offload))
        if start:
            strategy.load_optimizer_state(start.state)
        return strategy

    with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
        zero._import("deepspeed-zero2", "cpu")  # its loggers keep the stream that they find now
    for case in CASES:
        strategy = make(*case)
        saw[f"run {case}"] = train(strategy, ALL, rank, case[0])
        saw[f"poisoned {case}"] = _poison(strategy, rank)
    for stage in (1, 2, 3):
        strategy = make("full", stage, "none", 0, False, start)
        saw[f"untouched {stage}"] = Run(weights=strategy.weights(), state=strategy.optimizer_state())
        if stage == 3:
            _evaluate(rank, strategy, saw)
        saw[f"resumed {stage}"] = train(strategy, LATE, rank)
    saw["start"], saw["half"] = start, train(make("full", 3, "none", 0, False), EARLY, rank)
    half = shared(saw["half"])
    replicated = Replicated(network(backbone, "full", half.weights), settings())
    replicated.load_optimizer_state(half.state)
    saw["half resumed"] = train(replicated, LATE, rank)
    saw["noise"] = noise.getvalue()
    return saw


def _poison(strategy: Strategy, rank: int) -> Exception | None:
    """What a step raises whose loss is not a number, on the second worker alone."""
    ids = torch.ones(1, 2, dtype=torch.long)
    loss = strategy.network(ids, attention_mask=ids).sum()
    strategy.backward(loss * float("nan") if rank else loss, True)
    try:
        strategy.update(RATE)
    except RayclfError as error:
        return error
    return None


def _evaluate(rank: int, strategy: Strategy, saw: dict[str, Any]) -> None:
    """Evaluations in which the workers have different numbers of passes."""
    (ids, _), *_ = rows(0, 0)
    for name, passes in (("first", (3, 0)), ("second", (0, 1)), ("none", (0, 0))):
        with strategy.evaluating() as evaluated, torch.no_grad():
            evaluated.eval()
            saw[f"evaluation {name}"] = [evaluated(ids, torch.ones_like(ids)) for _ in range(passes[rank])]
            evaluated.train()
            saw["facade"] = evaluated.device, evaluated.training


# --- what they saw ---------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What the two workers saw."""

    workers: list[dict[str, Any]]
    backbone: Path

    def __getitem__(self, name: str) -> Any:
        return self.workers[0][name]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("zero")
    backbone = write_backbone(folder / "backbone", "llama")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.multiprocessing.start_processes(_work, (port, folder), nprocs=2, start_method="spawn")
    return Seen([torch.load(folder / str(rank), weights_only=False) for rank in (0, 1)], backbone)


@needs_deepspeed
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_trains_as_replicated_does(seen: Seen, case: Case) -> None:
    kind, stage, *_ = case
    run, wanted = seen[f"run {case}"], seen["wanted bf16 3" if (kind, stage) == ("bf16", 3) else f"wanted {kind}"]
    assert max(wanted.norms) > 2 * 0.5  # so that clipping has a part in it
    same(run, wanted)
    assert {tensor.dtype for tensor in run.weights.values()} == {torch.float32}


@needs_deepspeed
def test_order_of_bfloat16_sums_is_all_that_stage_3_changes(seen: Seen) -> None:
    wanted, by_module = seen["wanted bf16"], seen["wanted bf16 3"]
    torch.testing.assert_close(by_module.losses, wanted.losses, atol=2e-2, rtol=0)
    torch.testing.assert_close(by_module.norms, wanted.norms, atol=0, rtol=2e-2)


@needs_deepspeed
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_first_worker_alone_gets_whole_tensors(seen: Seen, case: Case) -> None:
    run, other = seen[f"run {case}"], seen.workers[1][f"run {case}"]
    assert not other.weights
    assert not other.state
    shapes = {name: p.shape for name, p in network(seen.backbone, case[0]).named_parameters() if p.requires_grad}
    assert {name: tensor.shape for name, tensor in run.weights.items()} == shapes
    for key in ("exp_avg", "exp_avg_sq"):
        assert {name: state[key].shape for name, state in run.state.items()} == shapes
    assert [state["step"].item() for state in run.state.values()] == [len(ALL)] * len(shapes)


@needs_deepspeed
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_gradients_that_are_no_numbers_end_the_training_of_all(seen: Seen, case: Case) -> None:
    for worker in seen.workers:
        assert "no longer finite" in str(worker[f"poisoned {case}"])


def late(run: Run) -> Run:
    return Run(run.losses[len(EARLY) :], run.norms[len(EARLY) :], run.weights, run.state)


@needs_deepspeed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_goes_on_from_replicated_and_evaluation_leaves_no_trace(seen: Seen, stage: int) -> None:
    untouched = seen[f"untouched {stage}"]
    torch.testing.assert_close(untouched.weights, seen["start"].weights, atol=0, rtol=0)
    torch.testing.assert_close(untouched.state, seen["start"].state, atol=0, rtol=0)
    same(seen[f"resumed {stage}"], late(seen["wanted full"]))


@needs_deepspeed
def test_replicated_goes_on_from_stage_3(seen: Seen) -> None:
    same(seen["half resumed"], late(seen["wanted full"]))


@needs_deepspeed
def test_each_worker_evaluates_as_much_as_it_has(seen: Seen) -> None:
    (ids, _), *_ = rows(0, 0)
    with torch.no_grad():
        wanted = network(seen.backbone, "full", seen["start"].weights).eval()(ids, torch.ones_like(ids))
    for rank, name, passes in ((0, "first", 3), (1, "second", 1)):
        logits = seen.workers[rank][f"evaluation {name}"]
        assert len(logits) == passes
        for each in logits:
            torch.testing.assert_close(each, wanted, atol=1e-5, rtol=0)
        assert seen.workers[1 - rank][f"evaluation {name}"] == []
    assert seen["facade"] == (torch.device("cpu"), True)


@needs_deepspeed
def test_deepspeed_is_quiet(seen: Seen) -> None:
    assert [worker["noise"] for worker in seen.workers] == ["", ""]


def test_missing_deepspeed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    with pytest.raises(ConfigError) as caught:
        zero._import("deepspeed-zero2", "cpu")
    assert str(caught.value) == "train.strategy: deepspeed-zero2 needs DeepSpeed; install rayclf[deepspeed]"
