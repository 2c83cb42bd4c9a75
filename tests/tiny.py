"""Tiny random backbones and classifiers on them, made on the fly: no test needs a network or a real model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rayclf.config import LoraConfig, ModelConfig
from rayclf.data.texts import TextSource
from rayclf.data.tokens import Encoding
from rayclf.labels import LabelSpace, ProblemType
from rayclf.model.adapters import add_lora
from rayclf.model.artifact import save_artifact
from rayclf.model.backbone import load_network
from rayclf.model.backbone_files import weight_hashes
from rayclf.model.engine import Classifier
from rayclf.model.info import ArtifactInfo, BackboneRef
from rayclf.model.network import Network
from rayclf.model.packing import pad_batch
from rayclf.model.quantize import Quantization
from rayclf.model.runtime.pytorch import TorchRuntime
from rayclf.model.tokenizer import load_tokenizer, text_encoding

TEXTS = [
    "The mitochondrion makes most of the energy of a cell.",
    "A cell!",
    "Which organelle makes ATP, and how does the membrane take part in it?",
    "The court found that the contract was void, since no party had signed it before the end of the term.",
    "Interest rates rose again.",
    "She signed the contract, and the bank raised the rate of interest on the loan by half a point.",
    "the the the the",
    "energy",
]
DECODERS = ("llama", "qwen3", "gpt_neo", "mistral", "phi")
ENCODERS = ("bert", "roberta", "distilbert", "modernbert")
END = "<|endoftext|>"  # of the decoders, which have no pad token

_VOCABULARY = 320
_SIZES = {
    "vocab_size": _VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    # Far larger than usual: with 0.02 all texts would have nearly the same logits, and nothing could differ.
    "initializer_range": 0.2,
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
    },
    "mistral": {"num_key_value_heads": 2, "sliding_window": 6, "head_dim": 8},
    "phi": {},
    "bert": {},
    "roberta": {"type_vocab_size": 1, "pad_token_id": 1},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    "modernbert": {"local_attention": 6, "global_attn_every_n_layers": 2, "initializer_cutoff_factor": 2.0},
}
_OTHER_NAMES = {"gpt_neo": ("num_hidden_layers", "num_attention_heads", "intermediate_size")}
_OTHER_NAMES["distilbert"] = ("hidden_size", *_OTHER_NAMES["gpt_neo"])


def tiny_config(name: str, **fields: Any) -> PretrainedConfig:
    """The config of a tiny model of type ``name``; ``fields`` come on top."""
    sizes = {key: value for key, value in _SIZES.items() if key not in _OTHER_NAMES.get(name, ())}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None} if name in DECODERS else {}
    if name == "modernbert":
        special = {"pad_token_id": 1, "cls_token_id": 0, "sep_token_id": 2, "bos_token_id": 0, "eos_token_id": 2}
    return AutoConfig.for_model(name, **(sizes | special | _CONFIGS.get(name, {}) | fields))


def decoder_tokenizer(*, ends: bool = False, **settings: Any) -> PreTrainedTokenizerFast:
    """Byte-level BPE with an end token and no pad token; with ``ends`` every text gets an end token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY - 10, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=96, **settings
    )


def encoder_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """WordPiece as BERT has it, or byte-level BPE as RoBERTa has it, each with its special tokens."""
    first, pad, last, unknown, mask = (
        ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
        if name in ("roberta", "modernbert")
        else ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]")
    )
    special = [first, pad, last, unknown, mask] if first == "<s>" else [pad, unknown, first, last, mask]
    settings: dict[str, Any] = {"vocab_size": _VOCABULARY - 10, "special_tokens": special, "show_progress": False}
    if first == "<s>":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(initial_alphabet=alphabet, **settings))
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token=unknown))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(**settings))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}", special_tokens=[(t, special.index(t)) for t in (first, last)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token=first,
        sep_token=last,
        pad_token=pad,
        unk_token=unknown,
        mask_token=mask,
        model_max_length=94,
    )


def write_backbone(folder: Path, name: str, *, seed: int = 0, tokenizer: Any = None, **fields: Any) -> Path:
    """A random backbone of type ``name``, without a head, and its tokenizer in Transformers' layout."""
    torch.manual_seed(seed)
    model = AutoModel.from_config(tiny_config(name, **fields))
    model.save_pretrained(folder)
    made = tokenizer or (decoder_tokenizer() if name in DECODERS else encoder_tokenizer(name))
    made.save_pretrained(folder)
    return folder


SPACES = {
    ProblemType.BINARY: LabelSpace(("spam",), ProblemType.BINARY),
    ProblemType.MULTICLASS: LabelSpace(("biology", "law", "money"), ProblemType.MULTICLASS),
    ProblemType.MULTILABEL: LabelSpace(("a", "b", "c", "d"), ProblemType.MULTILABEL),
}


@dataclass(frozen=True)
class Made:
    """A classifier in parts, as training holds it."""

    source: Path
    network: Network
    tokenizer: PreTrainedTokenizerBase
    encoding: Encoding
    info: ArtifactInfo

    @property
    def classifier(self) -> Classifier:
        """The live classifier."""
        return self.with_runtime()

    def with_runtime(self, encoding: Encoding | None = None, **settings: Any) -> Classifier:
        """The live classifier with other settings of its runtime."""
        runtime = TorchRuntime(self.network, self.info.pad_token_id, **settings)
        return Classifier(runtime, encoding or self.encoding, self.info)

    def save(self, folder: Path) -> Path:
        """The classifier as an artifact."""
        save_artifact(folder, self.network, self.tokenizer, self.info)
        return folder

    def with_info(self, **fields: Any) -> Made:
        """The same with other fields in its description."""
        return replace(self, info=self.info.model_copy(update=fields))


def perturb(network: torch.nn.Module, scale: float = 0.05, seed: int = 7) -> None:
    """Move every trainable weight away from its first value, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def train(made: Made, steps: int = 9) -> None:
    """A few real steps, so that every trainable weight has left its first value; row i is of label i modulo K."""
    size = len(made.info.space)
    batch = pad_batch(made.encoding(TEXTS), made.info.pad_token_id)
    targets = torch.arange(len(TEXTS)) % size
    optimizer = torch.optim.AdamW([p for p in made.network.parameters() if p.requires_grad], lr=1e-2)
    made.network.train()
    for _ in range(steps):
        torch.nn.functional.cross_entropy(made.network(*batch), targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    made.network.eval()


def make_classifier(
    source: Path,
    *,
    tuning: str = "full",
    kind: ProblemType = ProblemType.MULTICLASS,
    dtype: torch.dtype = torch.float32,
    moved: bool = True,
    seed: int = 7,
    thresholds: Sequence[float] | None = None,
    lora: LoraConfig = LoraConfig(r=4, alpha=16),  # noqa: B008  # frozen
    quantization: Quantization | None = None,
    **fields: Any,
) -> Made:
    """A classifier on the backbone in ``source``, made of the parts that training uses.

    ``tuning="qlora"`` is LoRA on a backbone quantised by ``quantization``, nf4 when unset; "head" leaves the backbone
    as it is.
    """
    space = SPACES[kind]
    if tuning == "qlora":
        tuning, quantization = "lora", quantization or "nf4"
    network = load_network(source, space, dtype=dtype, seed=3, quantization=quantization, compute_dtype=dtype)
    if tuning == "lora":
        add_lora(network, lora)
    if tuning == "head":
        network.backbone.requires_grad_(False)
    if moved:
        perturb(network, seed=seed)
    network.eval()
    tokenizer = load_tokenizer(source)
    encoding = text_encoding(tokenizer, network.config, ModelConfig(max_length=64))
    info = ArtifactInfo(
        label_space=space.to_json(),
        tuning=tuning,  # type: ignore[arg-type]
        quantization=quantization,
        pooling=network.layout.pooling,
        template="{text}",
        max_length=encoding.max_length,
        pad_token_id=tokenizer.pad_token_id,
        thresholds=list(thresholds or [0.5] * len(space)),
        reads=TextSource(text="text"),
        backbone=BackboneRef(
            id=str(source), revision=None, model_type=network.config.model_type, sha256=weight_hashes(source)
        ),
    )
    return Made(source, network, tokenizer, encoding, info.model_copy(update=fields))
