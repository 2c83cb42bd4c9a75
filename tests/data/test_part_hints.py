"""What is told of a training's rows before they are trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rayclf.config_file import load_config
from rayclf.data.part_hints import find_part_hints
from rayclf.data.plan import plan_parts, survey_test
from rayclf.data.prepare import prepare
from rayclf.data.survey import one_by_one

Find = Callable[..., tuple[str, ...]]


@pytest.fixture
def find(tmp_path: Path) -> Find:
    def found(
        rows: list[tuple[str, Any]], test: list[tuple[str, Any]] | None = None, **overrides: object
    ) -> tuple[str, ...]:
        def write(name: str, rows: list[tuple[str, Any]]) -> Path:
            file = tmp_path / name
            file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
            return file

        settings = load_config(None, {name.replace("__", "."): value for name, value in overrides.items()})
        plan = plan_parts(write("x.jsonl", rows), settings, held_out=test is None, tables=one_by_one)
        given = survey_test(write("y.jsonl", test), plan.found, settings, one_by_one) if test is not None else None
        return find_part_hints(plan, given)

    return found


def rows(labels: str, count: int = 40) -> list[tuple[str, Any]]:
    return [(f"text {number}", labels[number % len(labels)]) for number in range(count)]


def test_there_is_nothing_to_tell_of_good_rows(find: Find) -> None:
    assert find(rows("abc")) == ()
    assert find(rows("abc"), [("other", "a"), ("another", "b")]) == ()
    assert find([*rows("abc"), *rows("abc")]) == ()  # repeated, and in one part


def test_test_rows_that_are_trained_on(find: Find) -> None:
    train = rows("abc")
    (hint,) = find(train, [*train[:3], ("other", "a")], data__validation=0.0)
    assert hint.startswith("3 of 4 test rows have a text that is trained on too")
    validated = find(train, train, data__validation=0.5)  # those of the validation part are not trained on
    assert not validated[0].startswith("40 of 40")


def test_a_split_by_another_column_may_share_texts(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("text,label,day\n" + "".join(f"text {n % 20},{'ab'[n % 2]},{n}\n" for n in range(40)))
    overrides: Mapping[str, Any] = {
        "data.split": "time", "data.split_column": "day", "data.validation": 0.0, "data.test": 0.25
    }  # fmt: skip
    plan = plan_parts(file, load_config(None, overrides), held_out=True, tables=one_by_one)
    assert [hint[:10] for hint in find_part_hints(plan)] == ["10 of 10 t"]


def test_contradictions_are_told_with_the_first(find: Find) -> None:
    (hint,) = find([*rows("abc"), ("text 1", "c"), ("text 1", "b"), ("text 2", "a")])
    assert hint.startswith("5 rows have a text that another row has with other labels, such as ")
    assert "x.jsonl row 2 and " in hint
    assert hint.endswith("x.jsonl row 41; correct them or leave them out")
    assert "text 1" not in hint


def test_a_part_of_one_label(find: Find) -> None:
    train = rows("abc")
    (hint,) = find(train, [("other", "b"), ("another", "b")])
    assert hint.startswith("all 2 test rows hold 'b': ")
    flags = [(f"text {number}", number % 2) for number in range(40)]
    assert find(flags, [("other", 1), ("another", 1)])[0].startswith("all 2 test rows hold 'positive'")
    assert find(flags, [("other", 0), ("another", 0)])[0].startswith("all 2 test rows do not hold 'positive'")
    assert find(flags, [("other", 0), ("another", 1)]) == ()
    several = [(f"text {number}", [["a"], ["a", "b"], ["b", "c"]][number % 3]) for number in range(40)]
    assert find(several, [("other", ["a"]), ("another", ["a"])])[0].startswith("all 2 test rows hold 'a' alone")
    assert find(several, [("other", ["a"]), ("another", ["a", "b"])]) == ()
    assert find(several, [("other", ["a"]), ("another", [])]) == ()


def test_joined_labels_are_told_of_multiclass(find: Find) -> None:
    (hint,) = find([(f"text {number}", ["a", "b", "a;b"][number % 3]) for number in range(40)])
    assert "labels look joined by ';'" in hint


def test_prepared_data_remember_it(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows("abc")))
    events: list[dict[str, Any]] = []
    dataset = prepare(file, tmp_path / "out", test=file, on_event=events.append)
    (hint,) = dataset.record.hints
    assert "test rows have a text that is trained on too" in hint
    assert list(events[0]["hints"]) == dataset.record.hints
