from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import DECODERS, END, decoder_tokenizer, write_backbone
from transformers import CanineTokenizer

from rayclf.config import ModelConfig
from rayclf.data.texts import TextSource
from rayclf.errors import BackboneError, ConfigError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.model.backbone import describe, load_network
from rayclf.model.tokenizer import load_tokenizer, set_pad_token, text_encoding

Backbone = Callable[[str], Path]
SPACE = LabelSpace(("biology", "law", "money"), ProblemType.MULTICLASS)


def test_every_tokenizer_gets_a_pad_token(backbone: Backbone, architecture: str) -> None:
    tokenizer = load_tokenizer(backbone(architecture))
    assert tokenizer.pad_token_id is not None
    assert (tokenizer.pad_token_id == tokenizer.eos_token_id) == (architecture in DECODERS)
    config = describe(backbone(architecture)).config
    set_pad_token(config, tokenizer)
    assert config.pad_token_id == tokenizer.pad_token_id


def test_tokenizer_without_any_token_to_pad_with_is_refused(write_tiny: Callable[..., Path]) -> None:
    folder = write_tiny("llama")
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in settings.items() if k not in ("eos_token", "bos_token")}))
    with pytest.raises(BackboneError, match="no pad, end or unknown token to pad with"):
        load_tokenizer(folder)


def test_unknown_token_pads_when_there_is_no_end(tmp_path: Path) -> None:
    tokenizer = decoder_tokenizer(unk_token=END)
    tokenizer.eos_token = tokenizer.bos_token = None
    tokenizer.save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path).pad_token == END


def test_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    CanineTokenizer().save_pretrained(tmp_path)
    with pytest.raises(BackboneError, match="no fast tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["garbage", "{}", None])
def test_damaged_tokenizer_is_refused(write_tiny: Callable[..., Path], content: str | None) -> None:
    folder = write_tiny("llama")
    (folder / "tokenizer.json").unlink()
    if content:
        (folder / "tokenizer.json").write_text(content)
    with pytest.raises(BackboneError, match="its tokenizer cannot be loaded") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "wanted", "kept"), [("llama", 500, 96), ("llama", 50, 50), ("roberta", 500, 94)])
def test_max_length_is_lowered_to_the_positions(tmp_path: Path, name: str, wanted: int, kept: int) -> None:
    folder = write_backbone(tmp_path, name)
    tokenizer = load_tokenizer(folder)
    tokenizer.model_max_length = int(1e30)  # as Transformers has it when unset
    config = describe(folder).config
    encoding = text_encoding(tokenizer, config, ModelConfig(max_length=wanted))
    assert encoding.max_length == kept
    ids = encoding(["the contract " * 400])[0]
    assert len(ids) == kept
    network = load_network(folder, SPACE)
    with torch.no_grad():
        assert network(torch.tensor(ids[None].tolist()), torch.ones(1, kept, dtype=torch.int64)).isfinite().all()


def test_max_length_is_lowered_to_the_tokenizers(backbone: Backbone) -> None:
    tokenizer = load_tokenizer(backbone("bert"))
    tokenizer.model_max_length = 20
    assert text_encoding(tokenizer, describe(backbone("bert")).config, ModelConfig()).max_length == 20


def test_chat_needs_a_chat_template(backbone: Backbone) -> None:
    tokenizer, config = load_tokenizer(backbone("llama")), describe(backbone("llama")).config
    reads = TextSource(messages="m")
    with pytest.raises(BackboneError, match="choose a backbone with a chat template, or --template"):
        text_encoding(tokenizer, config, ModelConfig(), reads)
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    encoding = text_encoding(tokenizer, config, ModelConfig(), reads)
    assert encoding.render_chat('[{"role": "user", "content": "a"}]') == f"{tokenizer.bos_token}a"
    assert text_encoding(tokenizer, config, ModelConfig()).chat_template is None


def test_templates_that_do_not_fit_are_refused(backbone: Backbone) -> None:
    tokenizer, config = load_tokenizer(backbone("bert")), describe(backbone("bert")).config
    with pytest.raises(ConfigError, match="model.template: does not go with data.text_pair"):
        text_encoding(tokenizer, config, ModelConfig(template="x {text}"), TextSource(text="a", text_pair="b"))
    with pytest.raises(ConfigError, match=r"model.template: takes \d+ of the 8 tokens itself"):
        text_encoding(tokenizer, config, ModelConfig(template="a cell " * 9 + "{text}", max_length=8))
