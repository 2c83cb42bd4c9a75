"""What a row's text is made of."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from rayclf.data.texts import TextSource, messages_json, parse_template
from rayclf.errors import ConfigError, DataError

anything = st.text(st.characters(exclude_categories=["Cs"]))
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def render(table: dict[str, Any], **source: str) -> tuple[list[str | None], dict[int, str]]:
    found = TextSource(**source).render(pa.table(table))
    assert found.text.type == pa.string()
    return found.text.to_pylist(), found.problems


# --- sources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "columns", "form", "words"),
    [
        ({"text": "a"}, ("a",), "text", "column a"),
        ({"text": "a", "text_pair": "b"}, ("a", "b"), "pair", "columns a and b"),
        ({"template": "{b} {a} {b}"}, ("b", "a"), "text", "template '{b} {a} {b}'"),
        ({"messages": "m"}, ("m",), "messages", "chat messages in column m"),
    ],
)
def test_a_source_tells_what_it_reads(source: dict[str, str], columns: tuple[str], form: str, words: str) -> None:
    made = TextSource(**source)
    assert (made.columns, made.form, str(made)) == (columns, form, words)
    assert TextSource.model_validate_json(made.model_dump_json()) == made


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"text_pair": "b"},
        {"text": "a", "template": "{a}"},
        {"messages": "a", "text": "b"},
        {"template": "{a}", "text_pair": "b"},
        {"text": "a", "text_pair": "a"},
    ],
)
def test_one_source_alone(source: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="data.text"):
        TextSource(**source)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValidationError):
        TextSource(text="a", txt="b")  # type: ignore[call-arg]


def test_the_same_form_from_another_column() -> None:
    assert TextSource(text="a").read_from("x") == TextSource(text="x")
    assert TextSource(text="a", text_pair="b").read_from("x") == TextSource(text="x", text_pair="b")
    assert TextSource(template="{a}").read_from("x") == TextSource(text="x")
    assert TextSource(messages="a").read_from("x") == TextSource(messages="x")


@pytest.mark.parametrize(
    ("source", "flag", "column"),
    [
        ({"text": "no"}, "--text", "no"),
        ({"text": "a", "text_pair": "no"}, "--text-pair", "no"),
        ({"template": "{a}{no.x!r}"}, "--template", "no.x!r"),
        ({"messages": "no"}, "--messages", "no"),
    ],
)
def test_a_missing_column_is_named_with_the_candidates(source: dict[str, str], flag: str, column: str) -> None:
    with pytest.raises(DataError) as caught:
        TextSource(**source).check(["a", "b"], "x.csv")
    assert str(caught.value) == f"x.csv: no column '{column}'; {flag} must name one of: a, b"
    with pytest.raises(DataError, match="no column"):
        TextSource(**source).render(pa.table({"a": ["x"]}))


# --- columns --------------------------------------------------------------------------------------------------------


@given(st.lists(anything))
def test_any_unicode_text_survives(texts: list[str]) -> None:
    found = TextSource(text="t").render(pa.table({"t": pa.array(texts, pa.string())}))
    assert found.text.to_pylist() == texts
    assert found.problems == {row: "empty text" for row, text in enumerate(texts) if not text.strip()}


def test_missing_and_empty_texts() -> None:
    assert render({"a": ["x", None, " \n", "y"]}, text="a")[1] == {1: "no text", 2: "empty text"}
    assert render({"a": pa.array([], pa.string())}, text="a") == ([], {})


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.string(), pa.large_string()])
def test_bytes_are_text_where_they_are_utf_8(kind: pa.DataType) -> None:
    wide = pa.types.is_large_binary(kind) or pa.types.is_large_string(kind)
    array = pa.array(["é".encode(), b"\xff", None, b" "], pa.large_binary() if wide else pa.binary())
    column = pa.chunked_array([array.view(kind), array.view(kind)])
    texts, problems = render({"a": column}, text="a")
    assert texts == ["é", None, None, " "] * 2
    assert problems == {1: "not UTF-8", 2: "no text", 3: "empty text", 5: "not UTF-8", 6: "no text", 7: "empty text"}


def test_columns_of_other_types_and_chunks() -> None:
    assert render({"a": pa.array(["x", "y", "x"]).dictionary_encode()}, text="a") == (["x", "y", "x"], {})
    first, second = pa.chunked_array([["x"], ["y", "z"]]), pa.chunked_array([[1, 2], [None]], pa.int64())
    assert render({"a": first, "n": second}, template="{n}:{a}")[0] == ["1:x", "2:y", ":z"]


def test_pairs() -> None:
    table = pa.table({"p": ["a", None, "c", "d"], "h": ["w", "x", " ", None]})
    found = TextSource(text="p", text_pair="h").render(table)
    assert found.text_pair is not None
    assert (found.text.to_pylist()[0], found.text_pair.to_pylist()[0]) == ("a", "w")
    assert found.problems == {1: "column 'p': no text", 2: "column 'h': empty text", 3: "column 'h': no text"}


# --- templates ------------------------------------------------------------------------------------------------------


def test_a_template_over_columns() -> None:
    table = {"title": ["T", None, None], "the body": ["B", "B", ""]}
    texts, problems = render(table, template=r"Title: {title}\n{{{the body}}}")
    assert texts[:2] == ["Title: T\n{B}", "Title: \n{B}"]
    assert problems == {2: "empty text"}  # words of the template alone say nothing of a row


names = st.text("abc_ é.", min_size=1).filter(str.strip)


@given(
    st.lists(st.tuples(anything, st.sampled_from("abc")), min_size=1, max_size=5),
    anything,
    st.lists(st.tuples(*[st.none() | anything] * 3), max_size=4),
)
def test_templates_are_filled_as_python_formats_are(
    parts: list[tuple[str, str]], last: str, rows: list[tuple[str | None, ...]]
) -> None:
    def escape(text: str) -> str:
        return text.replace("{", "{{").replace("}", "}}")

    template = "".join(f"{escape(literal)}{{{name}}}" for literal, name in parts) + escape(last)
    table = {name: pa.array([row[i] for row in rows], pa.string()) for i, name in enumerate("abc")}
    texts, problems = render(table, template=template)
    used = {name for _, name in parts}
    for number, row in enumerate(rows):
        cells = {name: value or "" for name, value in zip("abc", row, strict=True)}
        expected = "".join(literal.replace("\\n", "\n") + cells[name] for literal, name in parts)
        assert texts[number] == expected + last.replace("\\n", "\n")
        assert (number in problems) == (not any(cells[name].strip() for name in used))


class AnyColumn(dict[str, str]):
    """Has whatever column a template names, unless the name is blank."""

    def __missing__(self, name: str) -> str:
        if not name.strip():
            raise KeyError(name)
        return self.setdefault(name, "A")


@given(st.lists(st.sampled_from(["{", "}", "{{", "}}", "a", "{a}", " "]), max_size=8).map("".join))
@example("{aa}")
@example("{a}{ a}")
def test_braces_mean_what_they_mean_to_python(template: str) -> None:
    columns = AnyColumn()
    try:
        expected = template.format_map(columns)
    except (ValueError, KeyError):
        columns.clear()
    if columns:
        assert render({name: ["A"] for name in columns}, template=template)[0] == [expected]
    else:
        with pytest.raises(ConfigError, match="^--template: "):
            parse_template(template)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("no field", "has no field"),
        ("{{a}}", "has no field"),
        ("a {", "a lone '{' at character 3; write {{"),
        ("{a}}", "a lone '}' at character 4; write }}"),
        ("{}", "names no column"),
        ("{ }", "names no column"),
    ],
)
def test_wrong_templates(template: str, words: str) -> None:
    with pytest.raises(ConfigError, match="^--template: ") as caught:
        TextSource(template=template)
    assert words in str(caught.value)


# --- chat messages --------------------------------------------------------------------------------------------------


def test_messages_from_json_and_from_structs_are_the_same() -> None:
    text, problems = render({"m": [json.dumps(CHAT, indent=1)]}, messages="m")
    kind = pa.list_(pa.struct({"role": pa.string(), "content": pa.string(), "name": pa.string()}))
    assert render({"m": pa.array([CHAT], kind)}, messages="m") == (text, problems) == ([json.dumps(CHAT)], {})
    assert messages_json(CHAT) == text[0]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "no text"),
        (" ", "empty text"),
        ("plain", "column 'm' is not a list of chat messages"),
        ("[]", "column 'm' is not a list of chat messages"),
        ("{}", "column 'm' is not a list of chat messages"),
        ("[" * 100_000, "column 'm' is not a list of chat messages"),
        ('["a"]', "column 'm' is not a list of chat messages"),
        ('[{"content": "a"}]', "message 1 has no role"),
        ('[{"role": "user", "content": "a"}, {"role": "user", "content": 3}]', "the content of message 2 is not text"),
        ('[{"role": "user", "content": null}]', "empty text"),
        (r'[{"role": "user", "content": "\ud800"}]', "not valid Unicode"),
    ],
)
def test_what_is_no_chat_is_told(cell: str | None, reason: str) -> None:
    texts, problems = render({"m": pa.array([json.dumps(CHAT), cell])}, messages="m")
    assert (texts[1], problems) == (None, {1: reason})


@given(st.lists(anything, min_size=1))
def test_any_unicode_message_survives(contents: list[str]) -> None:
    chat = [{"role": "user", "content": content} for content in contents]
    if any(content.strip() for content in contents):
        assert json.loads(messages_json(chat)) == chat
        assert messages_json(messages_json(chat)) == messages_json(chat)
    else:
        with pytest.raises(DataError, match="empty text"):
            messages_json(chat)
