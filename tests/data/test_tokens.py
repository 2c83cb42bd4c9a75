"""Texts to token ids."""
# tests are told by their names

import pickle

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from rayclf.data.tokens import Encoding, tokenize_rows

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
