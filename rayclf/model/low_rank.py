"""LoRA adapters beside one base network, of which each row of a batch takes its own.

PEFT can mix adapters in a batch (``adapter_names``), but not packed rows or DoRA; it copies rows out of and into every
layer's states, and hangs every adapter of every layer into the module tree. Here the rows of a batch are sorted by
adapter, so that the rows of one lie side by side: a hook on each linear layer adds ``x A B`` to slices of its output,
in place (as S-LoRA does, arXiv:2311.03285, without its kernels). Of loops over slices, gathered ``bmm`` and one masked
product, slices are the fastest on a CPU.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rayclf.errors import ArtifactError, one_line

_TENSOR = re.compile(r"base_model\.model\.(.+)\.(lora_A|lora_B|lora_magnitude_vector)(?:\.weight)?")
_STRANGE = ("alpha_pattern", "alora_invocation_tokens", "arrow_config", "layer_replication", "lora_bias", "use_qalora")


class Unshareable(ArtifactError):
    """A sound adapter that cannot share its backbone with others; it can be loaded alone, merged."""


@dataclass(frozen=True, eq=False)
class LowRank:
    """What an adapter does to one linear layer: ``y * gain + shift + x down up``; gain and shift are DoRA's.

    ``down`` ``[in, r]``, ``up`` ``[r, out]`` with the scaling in it, ``gain`` and ``shift`` ``[out]``.
    """

    down: Tensor
    up: Tensor
    gain: Tensor | None = None
    shift: Tensor | None = None

    def change(self, x: Tensor, y: Tensor) -> None:
        """Change the layer's output ``y`` ``[n, out]`` of ``x`` ``[n, in]``, in place."""
        if self.gain is not None:
            y.mul_(self.gain)
            if self.shift is not None:
                y.add_(self.shift)
        y.addmm_(x.to(self.down.dtype) @ self.down, self.up)

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        parts = (self.down, self.up, self.gain, self.shift)
        return sum(part.nbytes for part in parts if part is not None)


Layers = Mapping[str, LowRank]  # by the path of the linear layer in the backbone


@dataclass(frozen=True)
class _Mix:
    """The rows of the batch that is computed: neighbours of one adapter, and where they end in rows and in tokens."""

    layers: Sequence[Layers]
    rows: Sequence[int]
    tokens: Sequence[int] | None  # of a packed batch

    def spans(self, size: int) -> Iterator[tuple[Layers, int, int]]:
        """Where in ``size`` states, of tokens or of pooled tokens, each adapter's begin and end."""
        ends, times = self.rows, 1
        if len(self.layers) == 1:
            ends = (0, size)
        elif self.tokens is not None and size == self.tokens[-1]:
            ends = self.tokens
        elif size % self.rows[-1] == 0:
            times = size // self.rows[-1]
        else:
            raise ValueError(f"a layer reads {size} states of {self.rows[-1]} rows; adapters cannot mix in it")
        for layers, begin, end in zip(self.layers, ends, ends[1:], strict=False):
            yield layers, begin * times, end * times


class Mixer:
    """Hooks on the linear layers of a backbone, which do nothing outside of :meth:`mixed`."""

    def __init__(self, backbone: nn.Module) -> None:
        """Hook every linear layer; the backbone is not to be computed by two threads at once."""
        self._mix: _Mix | None = None
        for path, module in backbone.named_modules():
            if isinstance(module, nn.Linear | Conv1D):
                module.register_forward_hook(self._hook(path))

    def _hook(self, path: str) -> Any:
        def change(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if self._mix is None:
                return
            x, y = args[0].reshape(-1, args[0].shape[-1]), output.view(-1, output.shape[-1])
            for layers, begin, end in self._mix.spans(len(y)):
                if (layer := layers.get(path)) is not None:
                    layer.change(x[begin:end], y[begin:end])

        return change

    @contextmanager
    def mixed(self, rows: Sequence[Layers], lengths: Sequence[int] | None = None) -> Iterator[None]:
        """Inside, row ``i`` of what the backbone reads is computed with the adapter ``rows[i]``.

        Rows of one adapter must be neighbours. ``lengths`` are the tokens of each row of a packed batch, None of a
        padded one. Of one adapter alone, the backbone may read anything. Without gradients only.
        """
        groups = [list(group) for _, group in groupby(range(len(rows)), key=lambda i: id(rows[i]))]
        ends = [0, *(group[-1] + 1 for group in groups)]
        tokens = None
        if lengths is not None:
            sums = [0, *accumulate(lengths)]
            tokens = [sums[end] for end in ends]
        self._mix = _Mix([rows[group[0]] for group in groups], ends, tokens)
        try:
            yield
        finally:
            self._mix = None


def read_layers(backbone: nn.Module, folder: Path, dtype: torch.dtype) -> dict[str, LowRank]:
    """The adapter in ``folder`` (PEFT's layout) for a plain ``backbone``, on its device and in ``dtype``.

    Raises Unshareable for an adapter of a kind that cannot be mixed, ArtifactError when it does not fit the backbone.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
        strange = [name for name in _STRANGE if config.get(name)]
        alpha, rooted = float(config["lora_alpha"]), bool(config.get("use_rslora"))
        if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
            strange.append("peft_type" if config.get("peft_type") != "LORA" else "bias")
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unfit(folder, one_line(error)) from None
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if (found := _TENSOR.fullmatch(name)) is None:
            raise Unshareable(f"{folder}: cannot share its backbone, for it adapts {name}")
        parts.setdefault(found[1], {})[found[2]] = tensor
    if strange:
        raise Unshareable(f"{folder}: cannot share its backbone, for it sets {strange[0]}")
    modules = dict(backbone.named_modules())
    layers = {}
    for path, part in parts.items():
        module = modules.get(path)
        if not isinstance(module, nn.Linear | Conv1D):
            raise _unfit(folder, f"it adapts {path}, which is no linear layer there")
        try:
            down, up = part["lora_A"].T, part["lora_B"].T
            scaling = alpha / (math.sqrt(len(up)) if rooted else len(up))
            layers[path] = _low_rank(module, down, up * scaling, part.get("lora_magnitude_vector"), dtype)
        except (KeyError, RuntimeError, ZeroDivisionError) as error:
            raise _unfit(folder, f"{path}: {one_line(error)}") from None
    return layers


def _low_rank(
    module: nn.Linear | Conv1D, down: Tensor, up: Tensor, magnitude: Tensor | None, dtype: torch.dtype
) -> LowRank:
    """Tensors ``[in, r]`` and ``[r, out]`` as the layer takes them; DoRA's norms (arXiv:2402.09353) are of now."""
    weight = module.weight if isinstance(module, Conv1D) else module.weight.T  # [in, out]
    if (down.shape[0], up.shape[1]) != tuple(weight.shape) or down.shape[1] != up.shape[0]:
        raise RuntimeError(f"is of {down.shape[0]} × {up.shape[1]}, the layer of {weight.shape[0]} × {weight.shape[1]}")
    gain = shift = None
    down, up = down.to(weight.device).float(), up.to(weight.device).float()
    if magnitude is not None:
        gain = magnitude.to(weight.device).float().flatten() / (weight.detach().float() + down @ up).norm(dim=0)
        up = up * gain
        if module.bias is not None:
            shift = (module.bias.detach().float() * (1 - gain)).to(dtype)
        gain = gain.to(dtype)
    return LowRank(down.to(dtype).contiguous(), up.to(dtype).contiguous(), gain, shift)


def _unfit(folder: Path, why: str) -> ArtifactError:
    return ArtifactError(f"{folder}: the adapter does not fit its backbone ({why}); copy the artifact again")
