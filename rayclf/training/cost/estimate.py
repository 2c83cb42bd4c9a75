"""Plan before you pay: what a training takes of memory and time, and what would make it fit, before a GPU is rented.

No weights are read and Ray is not started, but for input so large that reading it through Ray pays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayclf.config import Config
from rayclf.data.order import EpochOrder
from rayclf.errors import ResourceError
from rayclf.model.backbone_files import fetch
from rayclf.training.cost.devices import GIB, Device, find_device
from rayclf.training.cost.memory import Case, Memory, estimate_memory, micro_batch_tokens, resolve_strategy, with_fields
from rayclf.training.cost.parameters import Shape, read_shape
from rayclf.training.head_rows import head_rows, steps_to_read

if TYPE_CHECKING:
    from rayclf.training.cost.workload import Workload

_MOST_GPUS = 64


@dataclass(frozen=True)
class Mend:
    """What would make a training fit: the flags to add, and the memory with them."""

    flags: tuple[str, ...]
    memory: Memory


@dataclass(frozen=True)
class Estimate:
    """What a training takes. ``memory`` is that of each of ``gpus``; ``tokens`` go through the network in all epochs,
    padding and evaluation left out; before them ``head_rows`` rows go through it once, forward. These three, ``flops``
    and ``seconds`` are None where the rows are not known."""

    backbone: str
    method: str
    strategy: str
    precision: str
    device: Device
    gpus: int
    labels: int
    shape: Shape
    memory: Memory
    micro_batch_tokens: int
    epochs: int
    rows: int | None
    head_rows: int | None
    tokens_per_row: float
    tokens: int | None
    flops: float | None
    seconds: float | None
    mend: Mend | None = None

    @property
    def fits(self) -> bool:
        """Whether every device holds its part."""
        return self.memory.total <= self.device.memory

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all GPUs together; None for CPUs and where the time is not known."""
        return None if self.seconds is None or self.device.is_cpu else self.seconds * self.gpus / 3600

    @property
    def trained(self) -> int:
        """Parameters that the optimizer changes, the head's included."""
        return self.shape.trained(self.method)

    def require(self) -> None:
        """Raise ResourceError when it does not fit, naming the flags that would make it fit."""
        if self.fits:
            return
        flags = self.mend.flags if self.mend else ()
        how = f"add {' '.join(flags)}" if flags else "take a device with more memory or a smaller backbone"
        raise ResourceError(
            f"{self.method} tuning of {count(self.shape.backbone)} parameters, {self.strategy}, takes "
            f"{self.memory.total / GIB:.1f} GiB of each {self.device.name}, which has {self.device.memory / GIB:.1f}; "
            f"{how}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain lists, objects, texts and numbers; memory in bytes."""
        shape = self.shape
        kept = "backbone method strategy precision gpus labels micro_batch_tokens epochs rows head_rows"
        parameters = {"backbone": shape.backbone, "head": shape.head, "trained": self.trained}
        if "lora" in self.method:
            parameters["adapters"] = shape.adapters
        return {
            **{name: getattr(self, name) for name in kept.split()},
            "tokens_per_row": round(self.tokens_per_row, 2),
            "tokens": self.tokens,
            "parameters": parameters,
            "device": asdict(self.device),
            "memory": self.memory.to_json(),
            "fits": self.fits,
            "flops": self.flops,
            "seconds": self.seconds,
            "gpu_hours": self.gpu_hours,
            "mend": {"flags": list(self.mend.flags), "memory": self.mend.memory.to_json()} if self.mend else None,
        }


def count(number: float) -> str:
    """A large number in three digits: 8.03 B."""
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.0f}"


def estimate(
    config: Config | str | Path | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
    rows: int | None = None,
    tokens_per_row: float | None = None,
    labels: int | None = None,
    backbone: str | None = None,
    device: str = "h100",
    gpus: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Estimate:
    """What a training with these settings takes of each ``device``, and for how long.

    ``config``, ``backbone`` and ``overrides`` are as for :func:`rayclf.train`; the backbone may be a folder that holds
    only ``config.json`` (and the tokenizer, when ``data`` is given). With ``data`` its training rows are counted and a
    sample of them tokenized; ``rows``, ``tokens_per_row`` (``model.max_length`` when unset) and ``labels`` (2) take the
    place of what is not known from it. ``gpus`` is the number of workers: ``resources.workers``, of a range the fewest,
    or 1 when unset. A result that does not fit has ``mend``, what would make it fit. Raises UserError as training does.
    """
    from rayclf.training.plan import resolve_settings

    settings = resolve_settings(config, backbone, overrides)
    name = settings.model.backbone
    folder = fetch(name, settings.model.revision, weights=False)
    found: Workload | None = None
    if data is not None:
        from rayclf.training.cost.workload import measure

        found = measure(data, settings)
    labels = labels or (found.labels if found else 2)
    workers = gpus or _workers(settings)
    about = find_device(device, workers)
    shape = read_shape(folder, labels)
    method = settings.model.method if settings.model.method != "auto" else "lora" if shape.decoder else "full"
    if "lora" in method:
        shape = read_shape(folder, labels, settings.model.lora)
    precision = about.precision(settings.train.precision)
    case = Case(settings, shape, labels, workers, precision, about.is_cpu)
    case = with_fields(case, {"model.method": method})
    case = with_fields(case, {"train.strategy": resolve_strategy(case, about.memory)})
    memory = estimate_memory(case)
    rows = rows or (found.rows if found else None)
    mean = min(tokens_per_row or (found.tokens_per_row if found else case.longest), case.longest)
    first = _first_rows(case, rows) if rows else None
    flops = None
    if rows:
        flops = rows * mean * settings.train.epochs * flops_per_token(case, mean)
        flops += (first or 0) * mean * forward_flops_per_token(case, mean)
    result = Estimate(
        backbone=name or str(folder),
        method=method,
        strategy=case.config.train.strategy,
        precision=precision,
        device=about,
        gpus=workers,
        labels=labels,
        shape=shape,
        memory=memory,
        micro_batch_tokens=micro_batch_tokens(settings.train, cpu=about.is_cpu),
        epochs=settings.train.epochs,
        rows=rows,
        head_rows=first,
        tokens_per_row=mean,
        tokens=round(rows * mean * settings.train.epochs) if rows else None,
        flops=flops,
        seconds=flops / (about.flops(precision) * workers) if flops else None,
    )
    if result.fits:
        return result
    adapted = read_shape(folder, labels, settings.model.lora)
    return replace(result, mend=find_mend(replace(case, shape=adapted), about.memory))


def _workers(settings: Config) -> int:
    workers = settings.resources.workers
    return workers if isinstance(workers, int) else workers[0] if workers else 1


def _first_rows(case: Case, rows: int) -> int:
    train = case.config.train
    most = head_rows(train, case.config.model.method)
    steps = steps_to_read(EpochOrder(rows, train.batch_size, train.seed, epoch=0), most, case.labels) if most else 0
    return min(rows, steps * train.batch_size)


def flops_per_token(case: Case, length: float) -> float:
    """FLOPs of forward and backward pass for each token of rows of ``length`` tokens.

    6 a parameter in full tuning: 2 forward, 4 backward (Kaplan et al., arXiv:2001.08361, section 2.1). 4 where weights
    are frozen, whose own gradient is not taken, and 6 for each of the adapters. 2 more when activations are computed
    again. Where only the head is trained, 2: nothing goes backward. Parameters are those that a token is multiplied
    with: no embeddings, of experts only the chosen ones.
    Attention adds 4 · width · length a layer and pass, twice as much backward, half of it in a decoder,
    which looks only back.
    """
    method, again = case.config.model.method, case.config.train.gradient_checkpointing
    forward = forward_flops_per_token(case, length)
    if method == "head":
        return forward
    return (3 + again) * forward - (0 if method == "full" else 2 * case.shape.active)


def forward_flops_per_token(case: Case, length: float) -> float:
    """FLOPs of a forward pass for each token of rows of ``length`` tokens."""
    shape = case.shape
    adapters = shape.adapters if "lora" in case.config.model.method else 0
    attention = 4 * shape.attention * length * shape.layers * (0.5 if shape.decoder else 1)
    return 2 * (shape.active + adapters) + attention


def find_mend(case: Case, device_memory: int) -> Mend | None:
    """The least costly change that makes ``case`` fit, None where none does; its shape must know of adapters.

    In order: fewer tokens at once, computing activations again, sharing by ZeRO over the workers there are, the
    optimizer in CPU memory, LoRA, QLoRA, the parameters in CPU memory, and more GPUs; each alone, and with the first
    two.
    """
    for fields, workers in _changes(case):
        changed = replace(with_fields(case, fields), workers=workers)
        if workers > changed.config.train.batch_size:
            continue
        memory = estimate_memory(changed)
        if memory.total <= device_memory:
            flags = [f"--set {path}={str(value).lower()}" for path, value in fields.items()]
            return Mend((*flags, *([f"--gpus {workers}"] if workers != case.workers else [])), memory)
    return None


def _changes(case: Case) -> Iterator[tuple[dict[str, Any], int]]:
    """Changes to the configuration by what they cost, with the number of workers."""
    for large, workers in _large_changes(case):
        for small in _small_changes(case):
            if large or small or workers != case.workers:
                yield large | small, workers


def _small_changes(case: Case) -> Iterator[dict[str, Any]]:
    budget = micro_batch_tokens(case.config.train, cpu=case.cpu)
    fewer = [n for n in (budget // 2, budget // 4, budget // 8, case.longest) if case.longest <= n < case.tokens]
    budgets = [{"train.micro_batch_tokens": n} for n in dict.fromkeys(fewer)]
    yield {}
    yield from budgets
    if not case.config.train.gradient_checkpointing:
        for again in ({}, *budgets):
            yield {"train.gradient_checkpointing": True, **again}


def _large_changes(case: Case) -> Iterator[tuple[dict[str, Any], int]]:
    n, method, offload = case.workers, case.config.model.method, case.config.train.offload
    yield {}, n
    if case.cpu:
        stages: list[dict[str, Any]] = []
    else:
        stages = [{"train.strategy": f"deepspeed-zero{stage}"} for stage in (1, 2, 3) if n > 1 and stage > case.zero]
    yield from ((stage, n) for stage in stages)
    if not case.cpu and offload == "none" and method == "full":
        yield {"train.strategy": "deepspeed-zero2", "train.offload": "optimizer"}, n
    for other in {"full": ("lora", "qlora"), "lora": ("qlora",)}.get(method, ()):
        for stage in ({}, *stages):
            yield {"model.method": other, **stage}, n
    if case.cpu:
        return
    if offload != "parameters":
        yield {"train.strategy": "deepspeed-zero3", "train.offload": "parameters"}, n
    more = 2
    while more <= _MOST_GPUS:
        if more > n:
            yield {"train.strategy": "deepspeed-zero3"}, more
        more *= 2
