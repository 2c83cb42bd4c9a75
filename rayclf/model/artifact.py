"""Write and load artifacts: safetensors and JSON only, every file under its SHA-256 (see :mod:`rayclf.model.info`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rayclf.data.tokens import Encoding
from rayclf.errors import ArtifactError
from rayclf.model.adapters import load_lora, save_lora
from rayclf.model.backbone import fetch, load_network, weight_hashes
from rayclf.model.info import ArtifactInfo, load_encoding, read_info, verify, write_info
from rayclf.model.network import Network
from rayclf.model.quantize import has_bitsandbytes
from rayclf.model.tensors import refuse_empty, whole_tensors

HEAD = "head.safetensors"


def save_artifact(
    folder: Path,
    network: Network,
    tokenizer: PreTrainedTokenizerBase,
    info: ArtifactInfo,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a classifier into ``folder``, which must be empty or not there yet.

    ``weights`` are whole trained tensors under their ``Network.named_parameters()`` names, for a network whose own
    parameters are partitioned over processes. Raises RayclfError rather than write an empty tensor.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    if info.tuning == "lora":
        save_lora(network, folder / "adapter", weights)
    else:
        state = whole_tensors(network.backbone, "backbone.", weights)
        refuse_empty(state)
        network.backbone.save_pretrained(folder / "backbone", state_dict=state)  # type: ignore[operator]
    head = whole_tensors(network.head, "head.", weights)
    refuse_empty(head)
    safetensors.torch.save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}, folder / HEAD
    )
    write_info(folder, info)


def load_weights(network: Network, folder: Path, info: ArtifactInfo, *, merge: bool, trainable: bool = False) -> None:
    """Lay an artifact's adapter (frozen unless ``trainable``) and head over a network on the untouched backbone."""
    if info.tuning == "lora":
        load_lora(network, folder / "adapter", merge=merge, trainable=trainable)
    try:
        head = safetensors.torch.load_file(folder / HEAD)
        network.head.load_state_dict(head, strict=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ArtifactError(
            f"{folder / HEAD}: does not hold this classifier's head ({' '.join(str(error).split())[:200]})"
        ) from None


def load_artifact(
    folder: Path, *, dtype: torch.dtype = torch.float32, check: bool = True
) -> tuple[Network, Encoding, ArtifactInfo]:
    """The network, the encoding and the description of the artifact in ``folder``.

    LoRA is merged into a float32 backbone; in lower precision merging would round the update away, so it stays
    beside. A backbone that was quantised for training gets the values of its quantised weights, in ``dtype``: those
    are what the adapter was trained on. ``check`` compares all files, and a backbone that lies elsewhere, with their
    recorded hashes. Raises ArtifactError or BackboneError.
    """
    info = read_info(folder)
    if check:
        verify(folder, info)
    ref = info.backbone
    source = folder / "backbone" if info.tuning == "full" else fetch(ref.id, ref.revision)
    if check and info.tuning == "lora" and weight_hashes(source) != ref.sha256:
        raise ArtifactError(
            f"{folder}: its adapter was trained on other weights than those in {source}; give back backbone {ref.id}"
        )
    if info.quantization and not has_bitsandbytes():
        raise ArtifactError(f"{folder}: its adapter stands on quantised weights (qlora); install rayclf[qlora]")
    network = load_network(source, info.space, dtype=dtype, quantization=info.quantization, dequantize=True)
    load_weights(network, folder, info, merge=dtype == torch.float32)
    return network, load_encoding(folder, info), info
