"""What each row gives the classifier to read, and units scored by the one path, without Ray."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import TEXTS, Made

from rayclf.data.texts import TextSource
from rayclf.errors import DataError
from rayclf.labels import ProblemType
from rayclf.scoring.job import ScoreOptions, make_job
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.scorer import UnitScorer
from rayclf.scoring.units import look_at, plan_units

Make = Callable[..., Made]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "{{ m.content }}{% endfor %}"
)


def scored(
    made: Made, tmp_path: Path, file: Path, text: str | None = None, **options: Unpack[ScoreOptions]
) -> list[dict[str, Any]]:
    """The file scored in one unit, planned as the pipeline plans it."""
    files = [look_at(str(file), file.name)]
    artifact = made.save(tmp_path / "artifact")
    out = str(tmp_path / "out")
    job = make_job(artifact, files, out, {"columns": [], "precision": "fp32", "text": text, **options})
    manifest = Manifest(out)
    manifest.open(job.settings(), overwrite=True)
    (unit,) = plan_units(files, 512)
    record = UnitScorer(job).score(unit)
    rows: list[dict[str, Any]] = []
    for part in record["files"]:
        table = pq.read_table(tmp_path / "out" / part["path"], partitioning=None)
        assert part["rows"] == len(table)
        rows += table.to_pylist()
    assert record["errors"] == sum(row["error"] is not None for row in rows)
    return rows


def as_file(tmp_path: Path, form: str, rows: list[dict[str, Any]]) -> Path:
    file = tmp_path / f"in.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_pairs(make: Make, tmp_path: Path, form: str) -> None:
    made = make("bert", reads=TextSource(text="p", text_pair="h"))
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    rows = [{"p": p, "h": h} for p, h in pairs] + [{"p": "a", "h": None}]
    found = scored(made, tmp_path, as_file(tmp_path, form, rows))
    assert found[-1]["error"] == "column 'h': no text"
    expected = made.classifier.probabilities(pairs)
    np.testing.assert_allclose([row["probabilities"] for row in found[:-1]], expected, atol=1e-5)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_templates(make: Make, tmp_path: Path, form: str) -> None:
    made = make("bert", reads=TextSource(template="{n}: {body}"))
    rows = [{"n": i, "body": text} for i, text in enumerate(TEXTS)] + [{"n": None, "body": " "}]
    found = scored(made, tmp_path, as_file(tmp_path, form, rows))
    assert found[-1]["error"] == "empty text"
    expected = made.classifier.probabilities([f"{i}: {text}" for i, text in enumerate(TEXTS)])
    np.testing.assert_allclose([row["probabilities"] for row in found[:-1]], expected, atol=1e-5)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_chat_messages(make: Make, tmp_path: Path, form: str) -> None:
    made = make("llama").with_info(reads=TextSource(messages="m"), chat_template=TEMPLATE)
    made = replace(made, encoding=made.info.encoding(made.encoding.tokenizer_json))
    chats = [[{"role": "user", "content": text}, {"role": "user", "content": "!"}] for text in TEXTS]
    rows = [{"m": None}, *({"m": chat} for chat in chats), {"m": [{"role": "tool", "content": "a"}]}, {"m": []}]
    found = scored(made, tmp_path, as_file(tmp_path, form, rows))
    assert found[0]["error"] == "no text"
    assert "no tools" in found[-2]["error"]
    assert found[-1]["error"] == "column 'm' is not a list of chat messages"
    assert found[-1]["label"] is None
    expected = made.classifier.probabilities(chats)
    np.testing.assert_allclose([row["probabilities"] for row in found[1:-2]], expected, atol=1e-5)


def test_another_column_is_found_or_given(make: Make, tmp_path: Path) -> None:
    made = make("bert", reads=TextSource(text="gone"))
    file = as_file(tmp_path, "parquet", [{"body": text, "n": i} for i, text in enumerate(TEXTS)])
    expected = made.classifier.probabilities(TEXTS)
    for text in (None, "body"):
        found = scored(made, tmp_path / str(text), file, text)
        np.testing.assert_allclose([row["probabilities"] for row in found], expected, atol=1e-5)
    with pytest.raises(DataError, match="text column 'n' holds int64, not text"):
        scored(made, tmp_path / "n", file, "n")
    with pytest.raises(DataError, match="no column 'gone'; --template must name one of: body, n"):
        scored(made.with_info(reads=TextSource(template="{gone}")), tmp_path / "t", file)
    with pytest.raises(DataError, match="no column 'h'; --text-pair must name"):
        scored(made.with_info(reads=TextSource(text="body", text_pair="h")), tmp_path / "p", file)


def test_a_text_that_is_too_long_is_cut_or_an_error(make: Make, tmp_path: Path) -> None:
    made = make("bert")
    limit = made.encoding.max_length
    texts = ["cell " * (limit - 2), "cell " * (limit - 1), "cell"]
    assert [len(made.encoding([text])[0]) for text in texts] == [limit, limit, 3]
    file = as_file(tmp_path, "parquet", [{"text": text} for text in texts])
    made = made.with_info(reads=TextSource(text="text"))
    assert [row["error"] for row in scored(made, tmp_path / "cut", file)] == [None] * 3
    found = scored(made, tmp_path / "error", file, too_long="error")
    assert [row["error"] for row in found] == [None, f"text has {limit + 1} tokens, more than {limit}", None]
    assert found[1]["label"] is None


def test_several_artifacts_in_one_pass(make: Make, tmp_path: Path) -> None:
    """Others of another backbone, tokenizer and label space each say what they would say alone."""
    first = make("bert", reads=TextSource(text="text"))
    second = make("llama", kind=ProblemType.MULTILABEL, reads=TextSource(text="text"))
    other = second.save(tmp_path / "topics" / "artifact")
    file = as_file(tmp_path, "parquet", [{"text": text} for text in [*TEXTS, ""]])
    found = scored(first, tmp_path, file, also=[other], top_k=1)
    assert found[-1]["error"] == "empty text"
    assert found[-1]["topics_label"] is None
    for prefix, made in (("", first), ("topics_", second)):
        expected = made.classifier.probabilities(TEXTS)
        got = [row[f"{prefix}probabilities"] for row in found[:-1]]
        np.testing.assert_allclose(got, expected, atol=1e-5)
        names = [made.classifier.space.names[i] for i in expected.argmax(axis=1)]
        assert [row[f"{prefix}top_labels"] for row in found[:-1]] == [[name] for name in names]


def test_a_threshold_and_hive_folders(make: Make, tmp_path: Path) -> None:
    made = make("bert", kind=ProblemType.MULTILABEL, reads=TextSource(text="text"))
    file = as_file(tmp_path, "parquet", [{"text": text} for text in [*TEXTS, ""]])
    found = scored(made, tmp_path, file, threshold=0.0, partition_by_label=True)
    assert len(found) == len(TEXTS) + 1
    assert sum(row["error"] is not None for row in found) == 1
    assert all(row["labels"] == list(made.classifier.space.names) for row in found if row["error"] is None)
