"""What a backbone is, and the backbone with a fresh head; where its files are: :mod:`rayclf.model.backbone_files`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging as transformers_logging

from rayclf.errors import BackboneError, one_line
from rayclf.labels import LabelSpace
from rayclf.model.head import HeadLayout, layout_of
from rayclf.model.network import Network
from rayclf.model.quantize import Quantization, cast_rest, quantize_linears, require_bitsandbytes, round_linears
from rayclf.model.tokenizer import load_tokenizer as load_tokenizer
from rayclf.model.tokenizer import set_pad_token as set_pad_token
from rayclf.model.tokenizer import text_encoding as text_encoding


@dataclass(frozen=True)
class BackboneFacts:
    """What a backbone is, known without its weights: its config, its head's layout and its number of parameters."""

    config: Any
    layout: HeadLayout
    parameters: int


def describe(folder: Path) -> BackboneFacts:
    """Look at the backbone in ``folder`` without reading its weights; raises BackboneError."""
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except Exception as error:  # whatever Transformers makes of a config that it does not like
        raise BackboneError(
            f"--backbone {folder}: not one that Transformers can put a classifier on ({one_line(error)})"
        ) from None
    return BackboneFacts(config, layout_of(model), sum(p.numel() for p in model.base_model.parameters()))


def load_network(
    folder: Path,
    space: LabelSpace,
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    dropout: float | None = None,
    quantization: Quantization | None = None,
    compute_dtype: torch.dtype = torch.float32,
    dequantize: bool = False,
    device: torch.device | str = "cpu",
) -> Network:
    """The backbone in ``folder`` with a head for ``space``, seeded; the head starts fresh unless the files hold one.

    ``dropout`` takes the place of every dropout rate in the config. With ``quantization`` the backbone is frozen, its
    linear layers are quantised and multiply in ``compute_dtype``, and ``dtype`` is that of its other weights; or, with
    ``dequantize``, its layers stay plain ones of ``dtype`` that hold the quantised values. The head is never
    quantised. The network is in evaluation mode. Raises BackboneError when the files cannot be loaded or lack weights
    of the backbone, ConfigError for a quantisation without bitsandbytes.
    """
    if quantization:
        require_bitsandbytes()
    torch.manual_seed(seed)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # it would report every head weight as missing, which is meant
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(
            folder,
            num_labels=len(space),
            id2label=dict(enumerate(space.names)),
            label2id=dict(space.index),
            problem_type=space.problem_type.transformers,
        )
        if dropout is not None:
            for name, value in config.to_dict().items():
                if isinstance(value, float) and ("dropout" in name or name.endswith("_pdrop")):
                    setattr(config, name, dropout)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder,
            config=config,
            dtype="auto" if quantization else dtype,  # what is quantised must not depend on the run's precision
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # of a config or weights that are damaged in one of many ways
        raise BackboneError(f"--backbone {folder}: cannot be loaded ({one_line(error)})") from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    network = Network(model)
    # Transformers fills weights that the files lack, or hold in another shape, with random ones and only warns.
    absent = {str(key) for key in info["missing_keys"]} | {str(key[0]) for key in info["mismatched_keys"]}
    random = sorted(absent & {names[id(parameter)] for parameter in network.backbone.parameters()})
    if random:
        raise BackboneError(
            f"--backbone {folder}: its files lack {len(random)} weights of the backbone, such as {random[0]}"
        )
    if quantization:
        if dequantize:
            round_linears(network.backbone, quantization, dtype)
        else:
            quantize_linears(network.backbone, quantization, compute_dtype, torch.device(device))
            network.config._is_quantized = True  # else Transformers' attention takes the weights' uint8 for its type
        cast_rest(network.backbone, dtype)
        network.config.dtype = dtype
    return network.to(device).eval()
