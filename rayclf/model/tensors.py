"""The tensors to save of a module whose parameters may be partitioned over processes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from rayclf.errors import RayclfError


def whole_tensors(module: nn.Module, prefix: str, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """``module``'s state with ``weights`` in place of its parameters, under the names of its ``state_dict``.

    ``weights`` are whole tensors by ``prefix`` and name of ``named_parameters``; those of another prefix are passed
    over. Under ZeRO-3 a process holds only a part of each parameter, and an empty tensor in its place
    (https://deepspeed.readthedocs.io/en/latest/zero3.html): what would be saved is none of the weights. A parameter
    with several names (tied weights) is given under its first and saved under all. Raises RayclfError for a name that
    is no parameter's.
    """
    given = {name.removeprefix(prefix): tensor for name, tensor in (weights or {}).items() if name.startswith(prefix)}
    first: dict[int, str] = {id(parameter): name for name, parameter in module.named_parameters()}
    unknown = sorted(given.keys() - first.values())
    if unknown:
        raise RayclfError(f"{prefix}{unknown[0]}: not a parameter of this network; please report this")
    state: dict[str, Tensor] = dict(module.state_dict())
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if name in state and first[id(parameter)] in given:
            state[name] = given[first[id(parameter)]]
    return state


def refuse_empty(tensors: Mapping[str, Tensor]) -> None:
    """Raise RayclfError for a tensor without elements, which a partitioned parameter leaves behind."""
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            raise RayclfError(f"{name}: empty on this process, being partitioned over several; gather it before saving")
