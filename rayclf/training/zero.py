"""DeepSpeed's ZeRO (arXiv:1910.02054) as a :class:`~rayclf.training.strategies.Strategy`, in the workers' own group.

Stage 1 shares out the optimizer's state over the workers, stage 2 the gradients too, stage 3 the weights too. What is
trained stays float32 and nothing is cast: DeepSpeed runs in its float32 mode and the caller's autocast computes lower,
so a frozen backbone may lie in bfloat16 or quantised beside float32 adapters and head.

What is saved has no trace of stages or workers: whole tensors under their names in the Network, as ``Replicated`` has
them, so that training goes on under any strategy. The optimizer is the AdamW of ``Replicated``, also when it is kept in
CPU memory: PyTorch's fused kernel needs no compiler, which DeepSpeed's own would.

Steps are those of ``Replicated`` to float32 rounding. Under stage 3 DeepSpeed wraps the inputs of each module, so that
the gradients of a value with several readers are added in another order; in bfloat16 that shows (0.7 % of a gradient
whose distance from float32's is 1.8 % either way).
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rayclf.config import TrainConfig
from rayclf.errors import ConfigError, RayclfError
from rayclf.model.network import Network
from rayclf.training.optimizer import make_optimizer
from rayclf.training.strategies import OptimizerState, is_first

_BUCKET = 2**25  # gradient elements that DeepSpeed reduces together, and has a buffer for: 128 MiB
_PERSISTENT = 100_000  # elements up to which stage 3 keeps a weight whole on every worker; DeepSpeed's default
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero:
    """ZeRO stage 1, 2 or 3, with the optimizer, or under stage 3 the weights as well, in CPU memory if so asked."""

    equal_passes = True  # stages 2 and 3 talk in every pass, and all stages need every gradient of every worker

    def __init__(self, network: Network, config: TrainConfig) -> None:
        """Take over a network whose weights are in place and the same on all workers, which are a process group.

        Raises ConfigError for a missing DeepSpeed.
        """
        self._stage = int(config.strategy[-1])
        deepspeed = _import(config.strategy, network.device.type)
        self._world = dist.get_world_size()
        self._network = network
        self._trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._optimizer = make_optimizer(network, config.weight_decay)
        self._root = _Root(network)
        os.environ.setdefault("LOCAL_RANK", str(network.device.index or 0))  # DeepSpeed insists, though told the device
        with warnings.catch_warnings(action="ignore"):
            self._engine = deepspeed.initialize(
                args=SimpleNamespace(device_rank=network.device.index or 0),
                model=self._root,
                optimizer=self._optimizer,
                config=_settings(config, self._stage, sum(p.numel() for p in self._trained.values())),
            )[0]
        self._engine.register_forward_pre_hook(self._root.keep_autocast)
        self.network: nn.Module = self._engine

    def backward(self, loss: Tensor, last: bool) -> None:
        """See :class:`~rayclf.training.strategies.Strategy`."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._world)  # DeepSpeed takes the mean over the workers; ours is a sum

    def update(self, learning_rate: float) -> float:
        """See :class:`~rayclf.training.strategies.Strategy`.

        Raises RayclfError on all workers for gradients that are not finite: DeepSpeed would pass over such steps.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        norm = float(self._engine.get_global_grad_norm())
        if not math.isfinite(norm):
            raise RayclfError("train.learning_rate: the gradients are no longer finite; lower it and train again")
        return norm

    def weights(self) -> dict[str, Tensor]:
        """See :class:`~rayclf.training.strategies.Strategy`; whole on the device is one tensor at a time."""
        import deepspeed

        whole = {}
        for name, parameter in self._trained.items():
            with deepspeed.zero.GatheredParameters([parameter], enabled=self._stage == 3):
                if is_first():
                    whole[name] = parameter.detach().to("cpu", copy=True)
        return whole

    def optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """See :class:`~rayclf.training.strategies.Strategy`; empty before the first step."""
        from deepspeed.utils import safe_get_full_optimizer_state

        steps = [float(state["step"]) for state in self._optimizer.state.values()]
        if not steps:
            return {}
        self._link_state()
        whole = {}
        for name, parameter in self._trained.items():
            moments = {key: safe_get_full_optimizer_state(parameter, key) for key in _MOMENTS}
            if is_first():
                whole[name] = {"step": torch.tensor(steps[0])}
                whole[name] |= {key: value.to("cpu", copy=True) for key, value in moments.items()}
        return whole

    def load_optimizer_state(self, state: OptimizerState) -> None:
        """See :class:`~rayclf.training.strategies.Strategy`; every worker is given the whole state, and takes its part.

        An empty state, of before the first step, is none.
        """
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        if not state:
            return
        self._make_state(float(next(iter(state.values()))["step"]))
        rank = dist.get_rank()
        for name, parameter in self._trained.items():
            for key in _MOMENTS:
                value = state[name][key]
                if self._stage < 3:
                    safe_set_full_optimizer_state(parameter, value, key)
                    continue
                # DeepSpeed's setter of whole values reads past the end of those that do not divide by the workers.
                mine = torch.zeros(math.ceil(value.numel() / self._world), dtype=value.dtype)
                part = value.flatten()[rank * len(mine) : (rank + 1) * len(mine)]
                mine[: len(part)] = part
                safe_set_local_optimizer_state(parameter, mine, key)

    def _make_state(self, step: float) -> None:
        """Give the optimizer the state that its first step would make, over DeepSpeed's flat parts of the weights."""
        zero = self._engine.optimizer
        flat = zero.fp32_partitioned_groups_flat if self._stage == 3 else zero.single_partition_of_fp32_groups
        for partition in flat:
            state = self._optimizer.state[partition]
            fused = self._optimizer.defaults["fused"]
            state["step"] = torch.tensor(step, device=partition.device if fused else "cpu")
            for key in _MOMENTS:
                state.setdefault(key, torch.zeros_like(partition, requires_grad=False))
        self._link_state()

    def _link_state(self) -> None:
        """Tell each parameter where in the state its part lies; DeepSpeed itself does so for the first group alone."""
        if self._stage == 3:
            return
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        zero = self._engine.optimizer
        for group, partition in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            lazy_init_hp_params_optimizer_state(group, partition, self._optimizer.state)

    @contextmanager
    def evaluating(self) -> Iterator[Network]:
        """See :class:`~rayclf.training.strategies.Strategy`.

        Under stage 3 every forward pass gathers weights from all workers, so a worker that is done goes on with passes
        over one token until all are done.
        """
        if self._stage < 3 or self._world == 1:
            yield self._network
            return
        shared = _Shared(self._network, self._root)
        yield cast(Network, shared)
        shared.wait()


class _Root(nn.Module):
    """What DeepSpeed wraps: the network under the autocast of the caller, which the engine turns off on CUDA."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self._autocast: tuple[bool, torch.dtype] | None = None

    def keep_autocast(self, *_: Any) -> None:
        """Remember the autocast that the engine is called under."""
        device = self.network.device.type
        self._autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        device = self.network.device.type
        kept, self._autocast = self._autocast, None
        enabled, dtype = kept or (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
        # Its cache would hold all weights in low precision, whole, until the end of the pass.
        with torch.autocast(device, dtype, enabled=enabled, cache_enabled=False):
            return self.network(*args, **kwargs)


class _Shared:
    """A Network whose every pass is one of all workers, who first tell each other whether any has something to do."""

    def __init__(self, network: Network, root: _Root) -> None:
        self._network, self._root = network, root

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._any(busy=True)
        return self._root(*args, **kwargs)

    def _any(self, busy: bool) -> bool:
        count = torch.tensor([float(busy)], device=self._network.device)
        dist.all_reduce(count)
        return bool(count)

    def wait(self) -> None:
        """Join the passes of the others until no one is busy."""
        token = torch.zeros(1, 1, dtype=torch.long, device=self._network.device)
        training = self._network.training
        self._network.eval()
        with torch.no_grad():
            while self._any(busy=False):
                self._root(token, torch.ones_like(token))
        self._network.train(training)


def _import(strategy: str, device: str) -> Any:
    """DeepSpeed, without warnings, log lines and the kernels that it would compile: no compiler is needed."""
    os.environ.setdefault("DS_ACCELERATOR", device)  # else it takes, and says that it takes, what it finds
    compiling = "TORCHDYNAMO_DISABLE" not in os.environ
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    try:
        with warnings.catch_warnings(action="ignore"):
            import deepspeed
            import deepspeed.ops
            import deepspeed.runtime.zero.muon.original_muon  # an optimizer of no use here, given to torch.compile
    except ImportError:
        raise ConfigError(f"train.strategy: {strategy} needs DeepSpeed; install rayclf[deepspeed]") from None
    finally:
        if compiling:
            del os.environ["TORCHDYNAMO_DISABLE"]
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # of names that it calls in every step
    # Shared-memory collectives for inference, compiled at the first start (half a minute); of no use here.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _settings(config: TrainConfig, stage: int, elements: int) -> dict[str, Any]:
    """DeepSpeed's configuration; float32 mode, accumulation in our hands."""
    zero: dict[str, Any] = {"stage": stage, "reduce_bucket_size": min(_BUCKET, elements)}
    if stage == 3:
        zero["stage3_param_persistence_threshold"] = _PERSISTENT
    place = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload != "none":
        zero["offload_optimizer"] = place
    if config.offload == "parameters":
        zero["offload_param"] = place
    return {
        "train_micro_batch_size_per_gpu": 1,  # a number that DeepSpeed wants and that nothing depends on
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
    }
