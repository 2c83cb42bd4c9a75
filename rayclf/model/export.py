"""Write a classifier as a plain Transformers folder, adapters merged, for any tool that loads one."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from rayclf import storage
from rayclf.errors import OutputError
from rayclf.model.artifact import load_artifact
from rayclf.model.backbone import load_tokenizer, set_pad_token
from rayclf.model.info import find_artifact
from rayclf.model.network import Network


def export(artifact: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Write ``folder`` so that ``AutoModelForSequenceClassification.from_pretrained(folder)`` gives the same logits.

    The head's weights go to the names that the architecture has for them; LoRA is merged into float32 weights.
    A prompt template is not part of such a folder: whoever uses it must apply the artifact's own. Raises OutputError
    when the folder exists and is not empty, ArtifactError when the artifact cannot be read.
    """
    source = find_artifact(artifact)
    target = storage.local_path(folder, "export folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target}: exists and is not an empty folder; choose another")
    network, encoding, info = load_artifact(source)
    tokenizer = load_tokenizer(source)
    set_pad_token(network.config, tokenizer)
    tokenizer.model_max_length = encoding.max_length
    # As we read text. Transformers numbers positions from the start of a row, padding included, so that learned
    # positions need padding on the right.
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    # Both texts of a pair were read as one segment.
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    model = to_transformers(network)
    if network.is_decoder and encoding(["a"])[0][-1:].tolist() == [tokenizer.pad_token_id]:
        _add_pad_token(model, tokenizer)
    with torch.no_grad():
        scale_logits(network, info.temperature)
    with storage.folder_whole(target) as draft:
        model.save_pretrained(draft, safe_serialization=True)
        tokenizer.save_pretrained(draft)
    return target


def _add_pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Where every text ends in the pad token, Transformers would skip that end as padding: pad with a new token."""
    tokenizer.add_special_tokens({"pad_token": "<|rayclf_pad|>"})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    set_pad_token(model.config, tokenizer)


def scale_logits(network: Network, temperature: float) -> None:
    """Put the temperature into the last linear layer: logits / T is the same layer with weights / T."""
    for parameter in network.head.out.parameters():
        parameter.div_(temperature)


def to_transformers(network: Network) -> PreTrainedModel:
    """The network as the ``…ForSequenceClassification`` it was parted from; its modules are shared, not copied."""
    with torch.device("meta"):  # every weight is replaced below, so none is made
        model = AutoModelForSequenceClassification.from_config(network.config)
    pooler = getattr(model.base_model, "pooler", None)
    setattr(model, model.base_model_prefix, network.backbone)
    if pooler is not None:
        network.backbone.pooler = pooler
    network.head.put_into(model, network.layout)
    model.eval()
    return model
