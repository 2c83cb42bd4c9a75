"""What an inspection finds, against data in which it is known."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf import storage
from rayclf.data.inspect import Inspection, inspect
from rayclf.data.inspect_report import render_page
from rayclf.data.scripts import count_scripts
from rayclf.data.token_lengths import LengthSample, summarize
from rayclf.data.tokens import Encoding
from rayclf.demo.lessons import data_file
from rayclf.errors import AmbiguousColumn, BackboneError
from rayclf.model.backbone import load_tokenizer

Look = Callable[..., Inspection]


@pytest.fixture
def look(tmp_path: Path, backbone: Callable[[str], Path]) -> Look:
    """A factory: ``look(name, content, …)`` writes a file and inspects it with a tiny tokenizer."""

    def of(name: str, content: str, **options: Any) -> Inspection:
        (tmp_path / name).write_text(content)
        return inspect(tmp_path / name, **({"backbone": str(backbone("bert"))} | options))

    return of


def csv(*rows: str, header: str = "text,label") -> str:
    return "\n".join([header, *rows]) + "\n"


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS = [f"some words number {number},{'ab'[number % 2]}" for number in range(40)]


def test_rows_read_are_those_kept_and_those_set_aside(look: Look) -> None:
    found = look("x.csv", csv(*ROWS, ",a", " ,b", "no label here,", "one,two,three"))
    assert (found.rows.read, found.rows.kept, found.rows.quarantined) == (44, 40, 4)
    assert sum(reason.rows for reason in found.rows.reasons) == 4
    first = found.rows.reasons[0]
    assert first.rows == 2
    assert "empty text" in first.reason
    assert (Path(first.example.file).name, first.example.row) == ("x.csv", 41)


def test_lines_do_not_make_reasons_of_their_own(look: Look) -> None:
    good = jsonl(*({"text": f"words {n} and more", "label": "ab"[n % 2]} for n in range(10)))
    found = look("x.jsonl", good + "{broken\n[1]\n{broken\n")
    assert found.rows.quarantined == 3
    assert sorted(reason.rows for reason in found.rows.reasons) == [1, 2]


def test_more_bad_rows_than_training_allows_are_shown(look: Look) -> None:
    found = look("x.csv", csv("some words,a", "other words,b", *[f"text {n}," for n in range(50)]))
    assert (found.rows.kept, found.rows.quarantined) == (2, 50)


def test_every_row_is_bad(look: Look) -> None:
    found = look("x.csv", csv("some words here,", "other words here,", "again some words,"))
    assert (found.rows.read, found.rows.kept) == (3, 0)
    assert found.problem_type is None
    assert "no row has any label" in found.problem_type_why
    assert found.labels.counts == ()
    assert found.tokens is None
    assert found.tokens_note is not None


@pytest.mark.parametrize(
    ("labels", "kind", "why"),
    [
        (["a", "b", "c"], "multiclass", "one of 3 names"),
        ([3, 1, 2], "multiclass", "one of 3 whole numbers"),
        ([0, 1, 1], "binary", "0 or 1"),
        ([["a"], ["a", "b"], []], "multilabel", "lists of labels"),
        ([{"a": 1, "b": 0}, {"a": 0, "b": 1}, {"a": 1, "b": 0}], "multiclass", "exactly one 1"),
        ([{"a": 1, "b": 1}, {"a": 0, "b": 0}, {"a": 1, "b": 0}], "multilabel", "no 1, or several"),
        ([{"a": 1}, {"a": 0}, {"a": 1}], "binary", "of one label"),
        (["a", "a", "a"], None, "every row has the same label"),
    ],
)
def test_problem_type_and_why(look: Look, labels: list[Any], kind: str | None, why: str) -> None:
    rows = ({"text": f"words of row {n}", "label": label} for n, label in enumerate(labels))
    found = look("x.jsonl", jsonl(*rows))
    assert found.problem_type == kind
    assert why in found.problem_type_why


def test_label_counts(look: Look) -> None:
    found = look("x.csv", csv("w 1 x,a|b", "w 2 x,a", "w 3 x,a", "w 4 x,|", "w 5 x,a|b|c"))
    assert [(c.name, c.rows, c.unknown) for c in found.labels.counts] == [("a", 4, 0), ("b", 2, 0), ("c", 1, 0)]
    assert found.labels.per_row == (1, 2, 1, 1)
    assert (found.labels.mean_per_row, found.labels.max_per_row) == (7 / 5, 3)
    uneven = found.labels.imbalance
    assert (uneven.ratio, uneven.largest_share, uneven.rare) == (4.0, 0.8, 3)


def test_unknown_targets(look: Look) -> None:
    rows = [{"text": "a b c", "label": {"x": 1, "y": None}}, {"text": "d e f", "label": {"x": 0, "y": 1}},
            {"text": "g h i", "label": {"y": 0}}]  # fmt: skip
    found = look("x.jsonl", jsonl(*rows))
    assert {count.name: count.unknown for count in found.labels.counts} == {"x": 1, "y": 1}
    assert found.labels.unknown_targets == 2


def test_the_other_side_of_a_binary_label(look: Look) -> None:
    found = look("x.csv", csv(*[f"words {n} more,{int(n == 0)}" for n in range(10)], header="text,spam"))
    assert [(count.name, count.rows) for count in found.labels.counts] == [("spam", 1)]
    assert found.labels.negative == 9
    assert (found.labels.imbalance.ratio, found.labels.imbalance.largest_share) == (9.0, 0.9)
    assert found.hints == ()  # a label of the column's name is no sign of a missing header


def test_declared_labels_without_rows(look: Look, tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("a\tFirst\nb\tSecond\nc\tThird\n")
    found = look("x.csv", csv(*ROWS), overrides={"labels.file": str(tmp_path / "labels.tsv")})
    assert found.labels.declared
    assert found.labels.size == 3
    assert found.labels.imbalance.without_rows == 1
    assert sum(count.rows for count in found.labels.counts) == 40


def test_labels_that_are_not_declared_are_counted_as_bad_rows(look: Look, tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("a\tFirst\nc\tThird\n")
    found = look("x.csv", csv(*ROWS), overrides={"labels.file": str(tmp_path / "labels.tsv")})
    assert found.rows.quarantined == 20
    assert "'b' is not in the label space" in found.rows.reasons[0].reason


def test_columns(look: Look) -> None:
    header = "id,body,label,written,user,text_length,remark"
    rows = [f"r{n},words of row {n},{'ab'[n % 2]},2024-05-{n + 1:02},u{n % 3},{n},same" for n in range(12)]
    found = look("x.csv", csv(*rows, header=header))
    assert {column.name: column.role for column in found.columns} == {
        "id": "id", "body": "text", "label": "label", "written": "time", "user": "group", "text_length": "other",
        "remark": "other",
    }  # fmt: skip
    by_name = {column.name: column for column in found.columns}
    assert by_name["text_length"].numeric
    assert (by_name["user"].distinct, by_name["user"].nulls) == (3, 0)
    assert by_name["remark"].why == "every value is the same"
    assert all(column.why for column in found.columns)


def test_ambiguous_columns_name_the_flag(look: Look) -> None:
    with pytest.raises(AmbiguousColumn, match="--text"):
        look("x.csv", csv("a b,c d,x", "e f,g h,y", header="question,sentence,label"))


def test_conflicts_are_named_by_place(look: Look) -> None:
    found = look("x.csv", csv(*ROWS, "twice the same,a", "twice the same,a", "at odds,a", "at odds,b", "at odds,a"))
    same = found.duplicates
    assert (same.rows, same.conflicting_texts, same.conflicting_rows) == (3, 1, 3)
    assert [[place.row for place in places] for places in same.examples] == [[43, 44]]


def test_labels_in_another_order_do_not_conflict(look: Look) -> None:
    same = look("x.csv", csv("w w w,a|b", "w w w,b|a", "other words,c")).duplicates
    assert (same.rows, same.conflicting_texts) == (1, 0)


@given(st.lists(st.tuples(st.sampled_from("pqrst"), st.sampled_from("abc")), max_size=40))
def test_duplicates_are_those_of_a_plain_count(pairs: list[tuple[str, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rows = [*((f"words {text}", label) for text, label in pairs), ("first words", "a"), ("last words", "b")]
        (Path(folder) / "x.csv").write_text(csv(*(f"{text},{label}" for text, label in rows)))
        same = _inspect_without_tokens(Path(folder) / "x.csv").duplicates
    labels: dict[str, set[str]] = defaultdict(set)
    for text, label in rows:
        labels[text].add(label)
    times = Counter(text for text, _ in rows)
    at_odds = {text for text, found in labels.items() if len(found) > 1}
    assert same.rows == len(rows) - len(times)
    assert same.conflicting_texts == len(at_odds)
    assert same.conflicting_rows == sum(times[text] for text in at_odds)
    firsts = sorted(min(n for n, row in enumerate(rows, 1) if row[0] == text) for text in at_odds)
    assert [places[0].row for places in same.examples] == firsts[:5]


def _inspect_without_tokens(path: Path) -> Inspection:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayclf.data.inspect.load_encoding", _no_encoding)
        return inspect(path)


def _no_encoding(*arguments: object) -> Any:
    raise BackboneError("--backbone x: not to be had")


def test_texts_shared_with_the_test_rows(look: Look, tmp_path: Path) -> None:
    test = csv("some words number 1,a", "some words number 1,b", "some words number 2,a", "new words,a", "new words,z")
    (tmp_path / "test.csv").write_text(test)
    found = look("x.csv", csv(*ROWS), test=tmp_path / "test.csv")
    assert found.test is not None
    assert (found.test.rows.read, found.test.rows.kept) == (5, 4)
    assert (found.test.shared.texts, found.test.shared.rows) == (2, 3)


def test_hints(look: Look) -> None:
    rows = [f"{n % 3},words of row {n},a" for n in range(6)]
    hints = look("x.csv", csv(*rows, header="id,text,label")).hints
    assert len(hints) == 2
    assert "one value" in hints[0]
    assert "3 rows have an id" in hints[1]


def test_labels_joined_by_another_separator_are_noticed(look: Look) -> None:
    labels = ["a", "b", "a;b", "b;c", "a;b;c", "c"]
    rows = [f"words of row {n},{label}" for n, label in enumerate(labels * 3)]
    (hint,) = look("x.csv", csv(*rows)).hints
    assert "labels look joined by ';'" in hint
    assert "--separator ';'" in hint
    assert look("x.csv", csv(*rows), overrides={"data.separator": ";"}).hints == ()
    alone = [f"words of row {n},{label}" for n, label in enumerate(["Sci/Tech", "World", "Mr. and Mrs; A"] * 3)]
    assert look("x.csv", csv(*alone)).hints == ()


@pytest.mark.parametrize(
    ("header", "sign"),
    [
        ("my words,a", "also one of the labels"),
        ("0,1", "is a number"),
        ("these are some words that begin the file,label", "is a sentence"),
    ],
)
def test_a_missing_header_is_noticed(look: Look, header: str, sign: str) -> None:
    (hint,) = look("x.csv", csv(*ROWS, header=header)).hints
    assert sign in hint
    assert "words" not in hint


def test_token_lengths_are_those_of_the_tokenizer(look: Look, backbone: Callable[[str], Path]) -> None:
    texts = [f"{'energy of a cell ' * (n + 1)}" for n in range(30)]
    found = look("x.csv", csv(*(f"{text},{'ab'[n % 2]}" for n, text in enumerate(texts))))
    tokenizer = load_tokenizer(backbone("bert"))
    lengths = np.array([len(ids.ids) for ids in tokenizer.backend_tokenizer.encode_batch(texts)])
    tokens = found.tokens
    assert tokens is not None
    assert (tokens.rows, tokens.sampled, tokens.max) == (30, False, lengths.max())
    assert tokens.mean == pytest.approx(lengths.mean())
    limit = tokenizer.model_max_length
    assert tokens.limit == limit
    (cut,) = tokens.truncation  # the tiny backbone takes under 100 tokens: none of 128, 256, … is possible
    assert cut.max_length == limit
    assert cut.texts == pytest.approx((lengths > limit).mean())
    assert cut.tokens == pytest.approx(np.maximum(lengths - limit, 0).sum() / lengths.sum())
    assert sum(tokens.counts) + tokens.beyond == 30


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=300))
def test_lengths_add_up(values: list[int]) -> None:
    lengths = np.array(values, np.int32)
    found = summarize(lengths, "x", 512, 200, sampled=False)
    assert sum(found.counts) + found.beyond == len(values)
    assert len(found.edges) == len(found.counts) + 1
    assert found.median <= found.p95 <= found.p99 <= found.max == max(values)
    assert [cut.max_length for cut in found.truncation] == [128, 200, 256, 512]
    shares = [(cut.texts, cut.tokens) for cut in found.truncation]
    assert shares == sorted(shares, reverse=True)
    assert set(values) >= {found.median, found.p95, found.p99}


def test_a_large_input_is_sampled_alike_however_it_is_cut(backbone: Callable[[str], Path]) -> None:
    encoding = Encoding(load_tokenizer(backbone("bert")).backend_tokenizer.to_str(), "{text}", 96)
    texts = ["the same text"] * 400 + [f"energy {n}" for n in range(600)]
    table = pa.table({"text": texts, "problem": pa.nulls(1000, pa.string())})
    results = []
    for rows in (1000, 70):
        sample = LengthSample("x", encoding, most=200)
        for start in range(0, 1000, rows):
            sample.add(table.slice(start, rows))
        results.append(sample.result(np.ones(1000, np.int64), 96))
    assert results[0] == results[1]
    found = results[0]
    assert found is not None
    assert found.sampled
    assert 100 <= found.rows <= 200


def test_a_default_backbone_that_is_not_to_be_had_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(csv(*ROWS))
    found = _inspect_without_tokens(tmp_path / "x.csv")
    assert found.tokens is None
    assert "not to be had" in str(found.tokens_note)
    with pytest.raises(BackboneError):
        inspect(tmp_path / "x.csv", backbone="./nowhere")


def test_pairs_templates_and_messages(look: Look) -> None:
    pairs = [{"a": f"first {n}", "b": f"second {n}", "label": "xy"[n % 2]} for n in range(4)]
    found = look("p.jsonl", jsonl(*pairs), overrides={"data.text": "a", "data.text_pair": "b"}, backbone=None)
    assert [column.role for column in found.columns] == ["text", "text pair", "label"]
    found = look("t.jsonl", jsonl(*pairs), overrides={"data.template": "{a}: {b}"})
    assert [column.role for column in found.columns] == ["text", "text", "label"]
    chats = [{"messages": [{"role": "user", "content": "Привет"}], "label": "xy"[n % 2]} for n in range(4)]
    with pytest.raises(BackboneError, match="no chat template"):
        look("m.jsonl", jsonl(*chats))
    found = look("m.jsonl", jsonl(*chats), backbone=None)
    assert found.scripts == {"Cyrillic": 1.0}
    assert found.tokens_note is not None


def test_scripts() -> None:
    found = count_scripts(["Hello, мир 123", "你好", "カタカナ ひらがな", None, "שלום العربية", "ＡＢ", "한국"])
    assert found == {
        "Latin": 7, "Cyrillic": 3, "Han": 2, "Japanese kana": 8, "Hebrew": 4, "Arabic": 7, "Hangul": 2,
    }  # fmt: skip


def test_progress_counts_rows(look: Look) -> None:
    done: list[int] = []
    look("x.csv", csv(*ROWS), on_rows=done.append)
    assert done[-1] == 40


def test_json_and_page_hold_no_text_of_the_data(look: Look) -> None:
    rows = [f"zanzibar secret {n},{'ab'[n % 2]}" for n in range(5)]
    found = look("x.csv", csv(*rows, "zanzibar secret 1,a", "zanzibar again,"))
    told = json.dumps(storage.plain(found.to_json()))
    assert json.loads(told)["rows"]["kept"] == 6
    page = render_page(found)
    assert "zanzibar" not in told + page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "3 rows" in page or "1 texts, in 2 rows" in page


@pytest.mark.parametrize("name", ["questions.csv", "support.jsonl"])
def test_the_demo_data(name: str, backbone: Callable[[str], Path]) -> None:
    found = inspect(data_file(name), backbone=str(backbone("bert")))
    assert found.rows.quarantined == 0
    assert found.problem_type == {"questions.csv": "multiclass", "support.jsonl": "multilabel"}[name]
