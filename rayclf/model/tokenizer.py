"""A backbone's tokenizer, made fit for classifying: padded, and bound to the template and length of the texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rayclf.config import ModelConfig
from rayclf.data.texts import TextSource
from rayclf.data.tokens import Encoding
from rayclf.errors import BackboneError, ConfigError, one_line

_POSITIONS_AFTER_PAD = ("roberta", "xlm-roberta", "camembert", "mpnet")  # their first position is the pad id + 1


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder`` with a pad token; raises BackboneError when there is none or it is a slow one."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the same for its files
        raise BackboneError(f"--backbone {folder}: its tokenizer cannot be loaded ({one_line(error)})") from None
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
