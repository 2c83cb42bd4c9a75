"""Write and load artifacts: safetensors and JSON only, every file under its SHA-256 (see :mod:`rayclf.model.info`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerBase

from rayclf.data.tokens import Encoding
from rayclf.errors import ArtifactError, one_line
from rayclf.model.adapters import load_lora, save_lora
from rayclf.model.backbone import load_network
from rayclf.model.backbone_files import fetch, weight_hashes
from rayclf.model.head import Head, layout_of
from rayclf.model.info import ArtifactInfo, load_encoding, read_info, verify, write_info
from rayclf.model.network import Network
from rayclf.model.quantize import has_bitsandbytes
from rayclf.model.tensors import refuse_empty, whole_tensors

HEAD = "head.safetensors"
_OF_LABELS = ("id2label", "label2id", "num_labels", "problem_type")


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
    elif info.tuning == "full":
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
    _fill_head(network.head, folder)


def _fill_head(head: Head, folder: Path, assign: bool = False) -> None:
    try:
        head.load_state_dict(safetensors.torch.load_file(folder / HEAD), strict=True, assign=assign)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ArtifactError(f"{folder / HEAD}: does not hold this classifier's head ({one_line(error)})") from None


def load_head(folder: Path, info: ArtifactInfo) -> Head:
    """The head alone, on the CPU: what is added for a classifier whose backbone another has loaded already.

    Raises ArtifactError or BackboneError.
    """
    config = AutoConfig.from_pretrained(backbone_folder(folder, info), num_labels=len(info.space))
    with torch.device("meta"):  # of the backbone not even memory is taken
        model = AutoModelForSequenceClassification.from_config(config)
        head = Head(model, layout_of(model))
    _fill_head(head, folder, assign=True)
    return head.requires_grad_(False).eval()


def backbone_folder(folder: Path, info: ArtifactInfo) -> Path:
    """Where the backbone under the artifact in ``folder`` lies: within, or for adapters and bare heads elsewhere."""
    return folder / "backbone" if info.tuning == "full" else fetch(info.backbone.id, info.backbone.revision)


def pooled_by(folder: Path, info: ArtifactInfo) -> str:
    """What the pooled states of token ids follow from, as JSON: artifacts for which it is equal differ in heads only.

    That is the SHA-256 of all weights under the head (an adapter's with its settings), the quantisation, the pooling,
    and the backbone's config but for its labels. Raises BackboneError for a backbone that is not there.
    """
    own = {name: digest for name, digest in info.files.items() if name.startswith(("adapter/", "backbone/"))}
    weights = {Path(name).name: digest for name, digest in own.items() if name.endswith(".safetensors")}
    adapter = {name: digest for name, digest in own.items() if name.startswith("adapter/")}
    config = json.loads((backbone_folder(folder, info) / "config.json").read_bytes())
    return json.dumps(
        {
            "weights": weights if info.tuning == "full" else info.backbone.sha256,
            "adapter": adapter,
            "quantization": info.quantization,
            "pooling": info.pooling,
            "pad_token_id": info.pad_token_id,  # what a row without tokens is read as
            "config": {name: value for name, value in config.items() if name not in _OF_LABELS},
        },
        sort_keys=True,
    )


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
    source = backbone_folder(folder, info)
    if check and info.tuning != "full" and weight_hashes(source) != ref.sha256:
        trained = "adapter" if info.tuning == "lora" else "head"
        raise ArtifactError(
            f"{folder}: its {trained} was trained on other weights than those in {source}; give back backbone {ref.id}"
        )
    if info.quantization and not has_bitsandbytes():
        raise ArtifactError(f"{folder}: its adapter stands on quantised weights (qlora); install rayclf[qlora]")
    network = load_network(source, info.space, dtype=dtype, quantization=info.quantization, dequantize=True)
    load_weights(network, folder, info, merge=dtype == torch.float32)
    return network, load_encoding(folder, info), info
