"""Which column is the text and which the label."""
# tests are told by their names

import pickle

import pyarrow as pa
import pytest

from rayclf.config import DataConfig
from rayclf.data import columns as finders
from rayclf.data.columns import find_text, likely_separator
from rayclf.data.texts import TextSource
from rayclf.errors import AmbiguousColumn, ConfigError, DataError

WORDS = ["a text of some words", "another text of words", "and a third one here", "a fourth text at last"]
OTHER = ["other words are in here", "which make a text also", "as long as the first", "or even longer than it"]
CLASSES = ["x", "y", "x", "y"]
NUMBERS = ["1", "2.5", "-3", "4e5"]


def find_columns(table, place, text=None, label=None, **config):
    reads, label = finders.find_columns(table, place, DataConfig(text=text, label=label, **config))
    return reads.text, label


def table(**columns):
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"prompt": WORDS, "completion": CLASSES, "topic": CLASSES}, ("prompt", "completion")),
        ({"input": WORDS, "expected_output": CLASSES}, ("input", "expected_output")),
        ({"label": CLASSES, "text": WORDS}, ("text", "label")),
        ({"Review": WORDS, "Sentiment": CLASSES}, ("Review", "Sentiment")),
        ({"id": NUMBERS, "tweet": WORDS, "stars": ["1", "2", "1", "2"]}, ("tweet", "stars")),
        ({"key": ["a", "b", "c", "d"], "tweet": WORDS, "kind": CLASSES}, ("tweet", "kind")),
        ({"key": ["1", "", "3", " "], "tweet": WORDS, "kind": CLASSES}, ("tweet", "kind")),
        ({"word": ["one", "two", "three", "four"], "kind": ["1", "2", "1", "1"]}, ("word", "kind")),
        ({"text": WORDS, "uuid": ["a", "b", "c", "d"], "kind": CLASSES}, ("text", "kind")),
    ],
)
def test_found_by_name_then_by_content(columns, expected):
    assert find_columns(table(**columns), "x.csv") == expected


def test_given_names_win():
    found = table(text=WORDS, label=CLASSES, body=OTHER, other=CLASSES)
    assert find_columns(found, "x.csv", text="body") == ("body", "label")
    assert find_columns(found, "x.csv", text="body", label="other") == ("body", "other")


@pytest.mark.parametrize(
    ("columns", "flag", "candidates"),
    [
        ({"text": WORDS, "content": OTHER, "kind": CLASSES}, "--text", ("text", "content")),
        ({"first": WORDS, "second": OTHER, "label": CLASSES}, "--text", ("first", "second")),
        ({"text": WORDS, "category": CLASSES, "tag": CLASSES}, "--label", ("category", "tag")),
        ({"text": WORDS, "one": CLASSES, "two": CLASSES}, "--label", ("one", "two")),
        # Two of the published pairs at once: neither may win in silence.
        ({"text": WORDS, "label": CLASSES, "prompt": OTHER, "completion": CLASSES}, "--text", ("text", "prompt")),
        ({"text": WORDS, "label": CLASSES, "labels": CLASSES}, "--label", ("label", "labels")),
    ],
)
def test_ambiguous_columns(columns, flag, candidates):
    with pytest.raises(AmbiguousColumn) as error:
        find_columns(table(**columns), "x.csv")
    for found in (error.value, pickle.loads(pickle.dumps(error.value))):
        assert isinstance(found, AmbiguousColumn)
        assert (found.flag, found.candidates) == (flag, candidates)
        assert str(found) == str(error.value)
    message = str(error.value)
    assert message.startswith("x.csv: several columns could be the")
    assert ", ".join(candidates) in message
    assert message.endswith(f"choose one with {flag}")


@pytest.mark.parametrize(
    ("columns", "given", "words"),
    [
        ({"text": WORDS, "label": CLASSES}, {"text": "body"}, "no column 'body'; --text must name one of: text, label"),
        (
            {"text": WORDS, "label": CLASSES},
            {"text": "text", "text_pair": "b"},
            "no column 'b'; --text-pair must name one of: text, label",
        ),
        ({"text": WORDS, "label": CLASSES}, {"label": "topic"}, "no column 'topic'; --label must name one of"),
        ({"text": NUMBERS, "label": CLASSES}, {}, "text column 'text' holds numbers, not text"),
        ({"text": ["1", "", "2", " 3 "], "label": CLASSES}, {}, "text column 'text' holds numbers"),
        ({"n": NUMBERS, "label": CLASSES}, {"text": "n"}, "text column 'n' holds numbers"),
        ({"text": [None] * 4, "label": CLASSES}, {}, "text column 'text' is empty"),
        ({"text": ["", " "] * 2, "label": CLASSES}, {}, "text column 'text' is empty"),
        ({"text": WORDS, "label": CLASSES}, {"text": "text", "label": "text"}, "cannot be both"),
        ({"text": WORDS}, {}, "no column besides 'text'"),
        (
            {"id": ["1", "2", "3", "4"], "text": WORDS},
            {},
            "no column repeats its values as labels do; name it with --label",
        ),
        ({"a": NUMBERS, "b": NUMBERS}, {}, "no column of text among: a, b; name it with --text"),
    ],
)
def test_refused_columns(columns, given, words):
    with pytest.raises(DataError) as error:
        find_columns(table(**columns), "x.csv", **given)
    assert str(error.value).startswith("x.csv: ")
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_text_alone():
    assert find_text(table(tweet=WORDS, kind=NUMBERS), "x.csv") == "tweet"
    assert find_text(table(tweet=WORDS, text=OTHER), "x.csv", exclude=["text"]) == "tweet"


def test_templates_pairs_and_chats():
    found = table(title=WORDS, body=OTHER, kind=CLASSES)
    config = DataConfig(template="{title}: {body}")
    assert finders.find_columns(found, "x.csv", config) == (TextSource(template="{title}: {body}"), "kind")
    pair = DataConfig(text="title", text_pair="body")
    assert finders.find_columns(found, "x.csv", pair) == (TextSource(text="title", text_pair="body"), "kind")
    chat = table(messages=["[]"] * 4, label=CLASSES)
    assert finders.find_columns(chat, "x.csv", DataConfig()) == (TextSource(messages="messages"), "label")
    with pytest.raises(ConfigError, match="exactly one of data.text"):
        finders.find_columns(found, "x.csv", DataConfig(text="title", template="{body}"))
    with pytest.raises(ConfigError, match=r"data\.text"):
        finders.find_columns(found, "x.csv", DataConfig(text_pair="body"))
    with pytest.raises(DataError, match=r"no column 'lead'; --template must name one of: title, body, kind"):
        finders.find_columns(found, "x.csv", DataConfig(template="{lead}"))
    with pytest.raises(DataError, match="cannot be both"):
        finders.find_columns(found, "x.csv", DataConfig(template="{kind}", label="kind"))


def test_what_is_preferred_gives_way_to_what_is_configured():
    found = table(text=WORDS, body=OTHER, label=CLASSES)
    prefer = TextSource(text="body")
    assert finders.find_columns(found, "x.csv", DataConfig(), prefer)[0] == prefer
    assert finders.find_columns(found, "x.csv", DataConfig(text="text"), prefer)[0].text == "text"
    assert finders.find_columns(found, "x.csv", DataConfig(), TextSource(text="gone"))[0].text == "text"


@pytest.mark.parametrize(
    ("cells", "mark"),
    [
        (["a;b", "b", "a", "c;a"], ";"),
        (["a, b", "b", "a", "a,b,c", "c"], ","),
        (["a|b;c", "b"], None),
        (["a", "b", "c"], None),
        (["well, this is one long sentence, and so on without an end"] * 2, None),
        (["Smith, John", "Miller, Ann", "Brown, Sue"], None),  # names that never repeat
        (['["a", "b"]', '["a"]'], None),
        (["", None], None),
    ],
)
def test_likely_separators(cells, mark):
    assert likely_separator(pa.chunked_array([pa.array(cells, pa.string())])) == mark
