"""Texts to token ids."""
# tests are told by their names

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from tiny import DECODERS, ENCODERS, TEXTS, decoder_tokenizer, encoder_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rayclf.data.tokens import Encoding, row_texts, tokenize_rows
from rayclf.errors import DataError

VOCABULARY = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "a": 4, "b": 5, "c": 6, "is": 7, "this": 8}


@pytest.fixture
def tokenizer():
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


def ids(encoding, *texts):
    return [row.tolist() for row in encoding(texts)]


def test_special_tokens_and_truncation(tokenizer):
    encoding = Encoding(tokenizer.to_str(), "{text}", 5)
    assert ids(encoding, "a b", "c", "a b c a b", "zzz") == [[1, 4, 5, 2], [1, 6, 2], [1, 4, 5, 6, 2], [1, 0, 2]]
    assert all(row.dtype == np.int32 for row in encoding(["a"]))
    assert encoding([]) == []


def test_padding_and_truncation_of_the_tokenizer_are_replaced(tokenizer):
    tokenizer.enable_padding(length=16, pad_id=3, pad_token="[PAD]")
    tokenizer.enable_truncation(3)
    assert ids(Encoding(tokenizer.to_str(), "{text}", 8), "a b c", "a") == [[1, 4, 5, 6, 2], [1, 4, 2]]


def test_template(tokenizer):
    encoding = Encoding(tokenizer.to_str(), "this is {text} c", 64)
    assert ids(encoding, "a", "{text}") == [[1, 8, 7, 4, 6, 2], [1, 8, 7, 0, 6, 2]]


def test_lengths_of_different_encodings_do_not_mix(tokenizer):
    short, long = (Encoding(tokenizer.to_str(), "{text}", length) for length in (4, 16))
    for _ in range(2):
        assert [len(encoding(["a b c a b c"])[0]) for encoding in (short, long)] == [4, 8]


def test_encoding_travels(tokenizer):
    encoding = Encoding(tokenizer.to_str(), "{text}", 8)
    assert pickle.loads(pickle.dumps(encoding)) == encoding


def test_tokenize_rows(tokenizer):
    encoding = Encoding(tokenizer.to_str(), "{text}", 8)
    table = pa.table({"row": [3, 1], "text": ["a b", "c"], "positive": [[0], []]})
    found = tokenize_rows(table, encoding)
    assert found.column_names == ["row", "positive", "input_ids"]
    assert found["input_ids"].type == pa.list_(pa.int32())
    assert found.to_pylist() == [
        {"row": 3, "positive": [0], "input_ids": [1, 4, 5, 2]},
        {"row": 1, "positive": [], "input_ids": [1, 6, 2]},
    ]
    empty = tokenize_rows(table.slice(0, 0), encoding)
    assert empty.schema == found.schema
    assert empty.num_rows == 0
    sliced = tokenize_rows(table.slice(1), encoding)
    assert sliced["input_ids"].to_pylist() == [[1, 6, 2]]


# --- what stands after the text -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
@pytest.mark.parametrize("suffix", ["\nenergy of a cell", " ", "energy?"])
def test_what_follows_the_text_survives_truncation(name, suffix):
    made = decoder_tokenizer(ends=name == "phi") if name in DECODERS else encoder_tokenizer(name)
    tokenizer = made.backend_tokenizer
    glued = name in ("bert", "distilbert") and not suffix[0].isspace()  # one unknown word with the end of the text
    for text in [*TEXTS, "a cell \U0001f600 " * 9, "x"]:
        whole = ids(Encoding(tokenizer.to_str(), "Text: {text}" + suffix, 10_000), text)[0]
        for length in (24, 30, 90):
            cut = ids(Encoding(tokenizer.to_str(), "Text: {text}" + suffix, length), text)[0]
            assert len(cut) == min(length, len(whole))
            split = next((i for i, (a, b) in enumerate(zip(cut, whole, strict=False)) if a != b), len(cut))
            assert cut == whole[:split] + whole[len(whole) - (len(cut) - split) :]  # something in the middle went
            if not glued:
                assert tokenizer.decode(cut).replace(" ", "").endswith(suffix.strip().replace(" ", ""))


def test_a_template_that_fills_all_does_not_grow(tokenizer):
    assert ids(Encoding(tokenizer.to_str(), "{text} a b c", 3), "is is") == [[4, 5, 6]]


# --- pairs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair_tokenizer(tokenizer):
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def test_pairs_by_the_tokenizers_own_template(pair_tokenizer):
    encoding = Encoding(pair_tokenizer.to_str(), "{text}", 8)
    assert ids(encoding, ("a b", "c"), "a") == [[1, 4, 5, 2, 6, 2], [1, 4, 2]]
    assert ids(encoding, ("a", "b c b c b c b c")) == [[1, 4, 2, 5, 6, 5, 6, 2]]
    assert ids(encoding, ("a b c a b c", "b")) == [[1, 4, 5, 6, 4, 2, 5, 2]]
    cut = ids(encoding, ("a a a a a a", "b b b b b b"))[0]
    assert len(cut) == 8
    assert min(cut.count(4), cut.count(5)) == 2  # longest first: neither is lost


def test_rows_of_pairs(pair_tokenizer):
    encoding = Encoding(pair_tokenizer.to_str(), "{text}", 8)
    table = pa.table({"id": ["x", "y"], "text": ["a b", "c"], "text_pair": ["c", "a"]})
    found = tokenize_rows(table, encoding)
    assert found.column_names == ["id", "input_ids"]
    assert found["input_ids"].to_pylist() == ids(encoding, *row_texts(table)) == [[1, 4, 5, 2, 6, 2], [1, 6, 2, 4, 2]]


# --- chat -----------------------------------------------------------------------------------------------------------

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def chat(*contents, role="user"):
    return json.dumps([{"role": role, "content": content} for content in contents])


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_chat_is_rendered_as_transformers_does(name):
    made = decoder_tokenizer(ends=True) if name == "llama" else encoder_tokenizer(name)
    made.bos_token, made.eos_token = made.bos_token or made.cls_token, made.eos_token or made.sep_token
    special = {key: token for key, token in made.special_tokens_map.items() if isinstance(token, str)}
    made.chat_template = CHAT_TEMPLATE
    encoding = Encoding(made.backend_tokenizer.to_str(), "{text}", 40, CHAT_TEMPLATE, special)
    for texts in (["A cell"], ["the court", "Interest rates \u00e9"], ["the contract " * 40]):
        expected = made.apply_chat_template(json.loads(chat(*texts)), tokenize=True, return_dict=False)
        assert ids(encoding, chat(*texts))[0] == expected[:40]
    assert pickle.loads(pickle.dumps(encoding)) == encoding


def test_what_a_chat_template_refuses_is_told(tokenizer):
    encoding = Encoding(tokenizer.to_str(), "{text}", 40, CHAT_TEMPLATE, {"bos_token": "a"})
    texts = [chat("a"), chat("b", role="system")]
    assert encoding.problems(texts) == {1: "the backbone's chat template refuses the messages (no system role)"}
    with pytest.raises(DataError, match="no system role"):
        encoding(texts)
    assert Encoding(tokenizer.to_str(), "{text}", 40).problems(["a"]) == {}
    empty = Encoding(tokenizer.to_str(), "{text}", 40, " ")
    assert "empty text" in empty.problems([chat("a")])[0]


def test_chat_templates_run_in_a_sandbox_on_a_fixed_day(tokenizer):
    escape = Encoding(tokenizer.to_str(), "{text}", 40, "{{ messages.__class__.__mro__ }}")
    assert "refuses" in escape.problems([chat("a")])[0]
    dated = Encoding(tokenizer.to_str(), "{text}", 40, "{{ strftime_now('%d %b %Y') }}")
    assert dated.render_chat(chat("a")) == "26 Jul 2024"


@pytest.mark.parametrize("template", ["{text}", "Topic of: {text}\nAnswer:"])
@pytest.mark.parametrize(
    "make_tokenizer", [lambda: encoder_tokenizer("bert"), decoder_tokenizer], ids=["bert", "llama"]
)
def test_of_a_very_long_text_only_the_head_is_tokenized(make_tokenizer, template):
    encoding = Encoding(make_tokenizer().backend_tokenizer.to_str(), template, 40)
    words = np.random.default_rng(1).choice(" ".join(TEXTS).split(), 4000)
    blank = " " * 20_000 + "a cell"  # whose head may give too few tokens
    for text in (" ".join(words), "".join(words), blank, "a " * 500 + blank):
        whole = Encoding(encoding.tokenizer_json, template, 40)
        object.__setattr__(whole, "_head", lambda text: text)
        assert ids(encoding, text) == ids(whole, text)
    assert len(encoding._head(" ".join(words))) < 1000
    if make_tokenizer is not decoder_tokenizer:  # which has tokens for blanks
        assert encoding._head(blank) == blank
