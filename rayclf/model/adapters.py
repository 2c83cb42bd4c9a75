"""LoRA through PEFT, on the backbone alone: the head is never PEFT's to save, rename or lose."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from rayclf.config import LoraConfig
from rayclf.errors import ArtifactError, ConfigError, one_line
from rayclf.model.network import Network
from rayclf.model.tensors import refuse_empty, whole_tensors

_WEIGHTS = "adapter_model.safetensors"  # PEFT's name; were it missing, PEFT would look for a pickle, then on the hub


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT warns of what we check ourselves, and reads attributes that Transformers has deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def add_lora(network: Network, config: LoraConfig) -> None:
    """Freeze the backbone and put trainable float32 adapters into it; raises ConfigError for unknown target modules."""
    import peft

    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=config.target_modules,
        use_dora=config.dora,
        use_rslora=config.rslora,
        task_type=peft.TaskType.FEATURE_EXTRACTION,
    )
    try:
        with _quiet():
            network.backbone = peft.get_peft_model(network.backbone, settings)
    except (ValueError, re.error) as error:
        raise ConfigError(f"model.lora.target_modules: {str(error).splitlines()[0]}") from None
    _speed_up(network)


def _speed_up(network: Network) -> None:
    from rayclf.model.fused_lora import speed_up  # PEFT takes long to import

    speed_up(network.backbone)


def without_adapters(network: Network) -> AbstractContextManager[None]:
    """The network as it is without its adapters, if it has any; they may be trained again afterwards."""
    # Asked of the backbone, not of PEFT: its import takes seconds, and a network without adapters has no use for it.
    disabled: Callable[[], AbstractContextManager[None]] = getattr(network.backbone, "disable_adapter", nullcontext)
    return disabled()


def save_lora(network: Network, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapters in PEFT's layout, as safetensors.

    ``weights`` are as for :func:`~rayclf.model.tensors.whole_tensors`. Raises RayclfError rather than write an empty
    tensor.
    """
    state = whole_tensors(network.backbone, "backbone.", weights)
    tensors = {name: tensor for name, tensor in state.items() if "lora_" in name}
    refuse_empty(tensors)
    # Embeddings are never tuned; left to itself, PEFT would ask the hub whether they have been resized.
    network.backbone.save_pretrained(  # type: ignore[operator]  # a PeftModel
        folder, state_dict=tensors, save_embedding_layers=False
    )
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def load_lora(network: Network, folder: Path, merge: bool, trainable: bool = False) -> None:
    """Put saved adapters on the backbone: frozen or ``trainable``, or merged into it.

    Raises ArtifactError when they do not fit the backbone: PEFT itself only warns about what it could not place.
    """
    import peft

    try:
        # Ours to check: every tensor of the file must find its place, and every adapter weight its tensor.
        saved = set(safetensors.torch.load_file(folder / _WEIGHTS))
        with _quiet():
            model = peft.PeftModel.from_pretrained(network.backbone, str(folder), is_trainable=trainable)
        placed = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: the adapter does not fit its backbone ({one_line(error)})") from None
    if saved != placed:
        odd = sorted(saved ^ placed)
        raise ArtifactError(
            f"{folder}: the adapter does not fit its backbone: {len(odd)} tensors differ, such as {odd[0]}"
        )
    network.backbone = model.merge_and_unload() if merge else model
    if not merge:
        _speed_up(network)
