"""Memory of a training, by component and for each GPU, under every method, strategy and offload.

Per parameter, as ZeRO (arXiv:1910.02054) counts: weights, gradients and Adam's two moments in float32 where trained,
16 bytes; frozen weights in bf16, 2 bytes, or quantised, about half a byte (QLoRA, arXiv:2305.14314). Per token, as
Korthikanti et al. (arXiv:2205.05198) count: what each operation of a layer saves for the backward pass. Attention is
fused, so it saves nothing that grows with the square of the length.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Literal

from rayclf.config import Config, TrainConfig
from rayclf.training.cost.devices import GIB
from rayclf.training.cost.parameters import Shape
from rayclf.training.head_rows import head_rows, rows_to_read

Strategy = Literal["single", "ddp", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3"]
STRATEGIES: tuple[Strategy, ...] = ("single", "ddp", "deepspeed-zero1", "deepspeed-zero2", "deepspeed-zero3")
_NF4 = 0.5 + 0.127 / 8  # bytes a parameter: 4 bits, and 0.127 bits of doubly quantised constants (QLoRA, section 3)
_BUCKET = 2**23  # gradient elements that rayclf.training.strategies sums at once, and one tensor more
_ZERO_BUCKET = 2**25  # the same of rayclf.training.zero
_GPU_RESERVE = GIB  # CUDA context, cuBLAS and NCCL workspaces, and the allocator's rounding
_CPU_RESERVE = GIB * 3 // 4  # Python, PyTorch and Ray


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker's device at the fullest moment; ``host`` is CPU memory taken by offloading, of all."""

    weights: int
    gradients: int
    optimizer: int
    autocast: int
    activations: int
    head: int
    buffers: int
    reserve: int
    host: int = 0

    @property
    def components(self) -> dict[str, int]:
        """What is on the device, by name."""
        return {field.name: int(getattr(self, field.name)) for field in fields(self) if field.name != "host"}

    @property
    def total(self) -> int:
        """All that is on the device."""
        return sum(self.components.values())

    def to_json(self) -> dict[str, int]:
        """Components, host and total."""
        return asdict(self) | {"total": self.total}


@dataclass(frozen=True)
class Case:
    """What memory follows from. ``config`` names a method and a strategy, not ``auto``; ``precision``: fp32 or bf16."""

    config: Config
    shape: Shape
    labels: int
    workers: int
    precision: str
    cpu: bool = False

    @property
    def zero(self) -> int:
        """The ZeRO stage, 0 for none."""
        strategy = self.config.train.strategy
        return int(strategy[-1]) if strategy.startswith("deepspeed") else 0

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return min(self.config.model.max_length, self.shape.positions or self.config.model.max_length)

    @property
    def tokens(self) -> int:
        """Padded tokens of the largest forward pass: a row longer than the budget goes alone, a small batch is less."""
        rows = -(-self.config.train.batch_size // self.workers)
        budget = micro_batch_tokens(self.config.train, cpu=self.cpu)
        return min(max(budget, self.longest), rows * self.longest)


def micro_batch_tokens(config: TrainConfig, *, cpu: bool) -> int:
    """``train.micro_batch_tokens`` with its default for the device."""
    return config.micro_batch_tokens or (2048 if cpu else 8192)


def estimate_memory(case: Case) -> Memory:
    """Peak bytes of each worker's device.

    Weights: 4 bytes a parameter in full tuning; else 2 (4 in fp32) for the frozen backbone, of qlora 0.516 (nf4) or 1
    (int8) for its linear layers, and 4 for adapters and head. Gradients 4 and Adam 8 for each trained one.
    ZeRO 1 shares Adam's part over the workers, 2 the gradients too, 3 also the weights (arXiv:1910.02054, figure 1);
    each keeps 4 more for its own copy of the trained weights, shared as Adam's are; offloading moves what it
    names to CPU memory.
    Of embeddings all rows are counted; on a CPU those of words that no text has take nothing but their weights
    (:mod:`rayclf.training.embedding_rows`).
    Autocast holds bf16 copies of trained matrices from their use in the forward pass to that in the backward one.
    """
    config, shape, n = case.config, case.shape, case.workers
    method, zero, offload = config.model.method, case.zero, config.train.offload
    trained = shape.trained(method)
    weights = _weights(case)
    gradients, optimizer = 4 * trained, (12 if zero else 8) * trained
    host = 0
    if zero and offload != "none":
        host, optimizer = optimizer, 0
        if zero >= 2:
            host, gradients = host + gradients, 0
    if zero == 3 and offload == "parameters":
        host, weights = host + weights, 0
    cast = {"full": shape.linear, "head": 0}.get(method, shape.adapters)
    if zero and config.train.gradient_checkpointing:  # without autocast's cache, of the layer at work alone
        cast //= shape.layers
    gradients, optimizer = gradients // (n if zero >= 2 else 1), optimizer // (n if zero else 1)
    activations = activation_bytes(case)
    return Memory(
        weights=weights // (n if zero == 3 else 1),
        gradients=gradients,
        optimizer=optimizer,
        autocast=2 * cast if case.precision == "bf16" else 0,
        activations=activations,
        head=max(_head(case), _head_first(case) - gradients - optimizer - activations),
        buffers=_buffers(case, trained),
        reserve=_CPU_RESERVE if case.cpu else _GPU_RESERVE,
        host=host,
    )


def _weights(case: Case) -> int:
    shape, model = case.shape, case.config.model
    if model.method == "full":
        return 4 * (shape.backbone + shape.head)
    width = 2 if case.precision == "bf16" else 4
    own = 4 * (shape.adapters + shape.head)
    if model.method == "head":
        return width * shape.backbone + 4 * shape.head
    if model.method == "lora":
        return width * shape.backbone + own
    quantised = _NF4 if model.quantization == "nf4" else 1
    return int(quantised * shape.linear) + width * (shape.backbone - shape.linear) + own


def activation_bytes(case: Case) -> int:
    """What all layers save for the backward pass of one micro-batch, plus embeddings and the last norm.

    With gradient checkpointing that is each layer's input, and all of one layer, which is computed again. Where only
    the head is trained nothing is saved; the layer at work is all there is.
    """
    shape, tokens = case.shape, case.tokens
    stream = 2 if case.precision == "bf16" and case.config.model.method != "full" else 4
    layer = layer_bytes(case)
    if case.config.model.method == "head":
        return tokens * (layer + 3 * 4 * shape.hidden)
    kept = (
        stream * shape.hidden * shape.layers + layer
        if case.config.train.gradient_checkpointing
        else layer * shape.layers
    )
    return tokens * (kept + 3 * 4 * shape.hidden)


def layer_bytes(case: Case) -> int:
    """What one layer saves for the backward pass, in bytes a token.

    The input of each matrix whose gradient is wanted; queries, keys, values (repeated to all heads) of the attention,
    whose output is the next matrix's input; the input of the activation, and of a gated one also both factors of its
    product; the input of each norm in float32, and of one that is written out (RMSNorm) the scaled input too. Under
    autocast every matrix that is tuned, or has a DoRA adapter, has a bf16 copy of its input for itself; else those of
    one input share it. An adapter adds what lies between its two matrices, DoRA two outputs (arXiv:2402.09353, without
    its section 4.3).
    """
    block, config = case.shape.block, case.config
    full, bf16 = config.model.method == "full", case.precision == "bf16"
    width = 2 if bf16 else 4
    if full:
        inputs = block.inputs if bf16 else block.shared
        norms = block.norms + block.scaled_norms
    else:
        inputs = block.adapted if bf16 and config.model.lora.dora else min(block.adapted, block.shared)
        inputs += block.adapted_layers * config.model.lora.r
        inputs += 2 * block.adapted_out if config.model.lora.dora else 0
        norms = block.norms
    scores = 3 * case.shape.eager_heads * case.longest
    return width * (inputs + block.attention + block.activation + scores) + 4 * norms


def _head(case: Case) -> int:
    """Pooled states, logits, probabilities and gradient of them, float32, for as many rows as go through at once."""
    rows = min(-(-case.config.train.batch_size // case.workers), case.tokens)
    return 4 * rows * (3 * case.shape.hidden + 4 * case.labels)


def _head_first(case: Case) -> int:
    """What the head takes before training takes anything else: inputs, targets, gradients and Adam's part."""
    config, shape = case.config, case.shape
    rows = rows_to_read(head_rows(config.train, config.model.method), case.labels)
    return 4 * rows * (shape.hidden + case.labels) + 12 * shape.head if rows else 0


def _buffers(case: Case, trained: int) -> int:
    """What lives for moments: gradients of the widest operation, buckets of a sum over workers, a gathered layer, a
    matrix that is dequantised or whose norm DoRA takes."""
    shape, model = case.shape, case.config.model
    full = model.method == "full"
    width = 2 if case.precision == "bf16" else 4
    working = case.tokens * (width * 3 * shape.block.widest // 2 + 4 * 2 * shape.hidden)
    if model.method == "qlora":
        working += 2 * width * shape.largest_matrix
    if "lora" in model.method and model.lora.dora:
        working += 2 * 4 * shape.largest_matrix
    if full:
        working += 4 * shape.largest  # the gradient of a matrix before it is added to what has been summed up
    largest = shape.largest if full else max(shape.largest_adapter, shape.head)
    if case.zero:
        working += 4 * min(trained, _ZERO_BUCKET + largest)
        if case.zero == 3:
            working += 2 * (4 if full else width) * shape.gathered  # one at work, one fetched ahead
    elif case.workers > 1:
        working += 4 * min(trained, _BUCKET + largest)
    return working


def resolve_strategy(case: Case, device_memory: int) -> Strategy:
    """``train.strategy``, ``auto`` being the least that fits into ``device_memory`` bytes: single for one worker, ddp
    for several, else the first ZeRO stage that fits, the last one when none does.

    Offloading is DeepSpeed's: it takes stage 2 for the optimizer, 3 for parameters, from there on. On a CPU it is
    single or ddp otherwise: workers there share one memory, and DeepSpeed only adds to it.
    """
    train = case.config.train
    if train.strategy != "auto":
        return train.strategy
    if train.offload == "parameters":
        return "deepspeed-zero3"
    plain: Strategy = "single" if case.workers == 1 else "ddp"
    if train.offload == "none" and (case.cpu or case.workers == 1):
        return plain
    choices = STRATEGIES[3:] if train.offload == "optimizer" else (plain, *STRATEGIES[2:])
    for choice in choices:
        if estimate_memory(with_fields(case, {"train.strategy": choice})).total <= device_memory:
            return choice
    return "deepspeed-zero3"


def with_fields(case: Case, fields: dict[str, object]) -> Case:
    """The case with other fields of ``model`` and ``train`` in its configuration, by dotted path."""
    parts: dict[str, dict[str, object]] = {}
    for path, value in fields.items():
        section, name = path.split(".")
        parts.setdefault(section, {})[name] = value
    sections = {name: getattr(case.config, name).model_copy(update=update) for name, update in parts.items()}
    return Case(
        case.config.model_copy(update=sections), case.shape, case.labels, case.workers, case.precision, case.cpu
    )
