"""What the user can mend: one clear line on stderr, exit code 2, nothing half-written. Real processes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rayclf.demo.lessons import data_file

GOOD = "text,label\n" + "".join(f"some words number {i},{'ab'[i % 2]}\n" for i in range(40))


def rayclf(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in ``folder``, without a terminal."""
    command = [sys.executable, "-m", "rayclf.cli.main", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def refused(folder: Path, *arguments: str) -> str:
    """The one line that a refused command prints; checks that it left no file behind."""
    before = sorted(folder.rglob("*"))
    result = rayclf(folder, *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert sorted(folder.rglob("*")) == before
    return result.stderr


DATA = {
    "empty file": ("", "x.csv: the file is empty"),
    "header only": ("text,label\n", "x.csv: holds no rows"),
    "text of numbers": ("text,label\n1,a\n2,b\n3,a\n", "text column 'text' holds numbers"),
    "one class": ("text,label\nsome words,a\nother words,a\n", "at least two classes"),
    "duplicate columns": ("text,text,label\na b,c d,x\ne f,g h,y\n", "duplicate column names: text"),
    "other completion": ("prompt,completion\na b,1\nc d,0\ne f,2\n", "row 3, column 'completion': must be 0, 1"),
    "empty text": ("text,label\na b,x\n,y\n", "row 2, column 'text': empty text"),
    "two texts": ("question,sentence,label\na b,c d,x\ne f,g h,y\n", "could be the text: question, sentence"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_trained_on(tmp_path: Path, case: str) -> None:
    content, expected = DATA[case]
    (tmp_path / "x.csv").write_text(content)
    assert expected in refused(tmp_path, "train", "x.csv", "-o", "runs/x")


def test_broken_json_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a b", "label": "x"}\n{"text": "c d", "label": }\n')
    assert "x.jsonl: line 2: broken JSON" in refused(tmp_path, "train", "x.jsonl", "-o", "runs/x")
    (tmp_path / "x.jsonl").write_text('{"text": "a b"\n{"text"\n')
    told = refused(tmp_path, "train", "x.jsonl", "-o", "runs/x")
    assert re.search(r"x\.jsonl: line 1: broken JSON \(.+\) \(and 1 more rows\); no row can be read", told)


def test_missing_files_and_columns(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(GOOD)
    assert "nowhere.csv: no such file" in refused(tmp_path, "train", "nowhere.csv", "-o", "runs/x")
    assert "no column 'body'; --text must name one of: text, label" in refused(
        tmp_path, "train", "x.csv", "-o", "runs/x", "--text", "body"
    )
    assert "nowhere: no such file or folder" in refused(tmp_path, "evaluate", "nowhere", "x.csv")


def test_test_labels_that_training_lacks_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(GOOD)
    (tmp_path / "t.csv").write_text("text,label\nother words,a\nmore words,zebra\n")
    told = refused(tmp_path, "train", "x.csv", "-o", "runs/x", "--test", "t.csv")
    assert "t.csv" in told
    assert "zebra" in told


def test_configuration(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(GOOD)
    (tmp_path / "c.yaml").write_text("train:\n  epoch: 3\n")
    told = refused(tmp_path, "train", "x.csv", "-o", "runs/x", "--config", "c.yaml")
    assert "c.yaml: unknown key 'train.epoch'; did you mean 'epochs'?" in told
    assert "train.epochs" in refused(tmp_path, "train", "x.csv", "-o", "runs/x", "--set", "train.epochs=many")
    assert "no metric magic" in refused(tmp_path, "train", "x.csv", "-o", "runs/x", "--set", "train.metric=magic")


def test_output_that_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(GOOD)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert "exists and is not a run" in refused(tmp_path, "train", "x.csv", "-o", "mine")
    assert "exists and is not a run" in refused(tmp_path, "train", "x.csv", "-o", "mine", "--overwrite")


def test_backbone_that_is_not_there(tmp_path: Path) -> None:
    """Told before the data is read, which may be large; this is none that could be."""
    (tmp_path / "x.csv").write_text("")
    for command in ("train", "tune"):
        told = refused(tmp_path, command, "x.csv", "-o", "runs/x", "--backbone", "./nowhere")
        assert "--backbone ./nowhere: no such folder" in told


def test_artifacts_that_are_none_or_damaged(tmp_path: Path, make: Callable[..., object]) -> None:
    (tmp_path / "x.csv").write_text(GOOD)
    (tmp_path / "empty").mkdir()
    artifact = make("bert").save(tmp_path / "artifact")  # type: ignore[attr-defined]
    weights = artifact / "backbone" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    for command in (["predict", "{}", "text"], ["score", "{}", "x.csv", "out"], ["export", "{}", "out"]):
        assert "neither an artifact nor a finished run" in refused(tmp_path, *(a.format("empty") for a in command))
        told = refused(tmp_path, *(a.format("artifact") for a in command))
        assert "model.safetensors: damaged, its SHA-256 is not the recorded one" in told
    (artifact / "rayclf.json").write_text("{")
    assert "rayclf.json: damaged" in refused(tmp_path, "info", "artifact")


def test_scoring_input(tmp_path: Path, make: Callable[..., object]) -> None:
    make("bert").save(tmp_path / "artifact")  # type: ignore[attr-defined]
    (tmp_path / "x.csv").write_text(GOOD)
    (tmp_path / "n.csv").write_text("number\n1\n2\n")
    (tmp_path / "x.xlsx").write_text("")
    assert "unknown file type" in refused(tmp_path, "score", "artifact", "x.xlsx", "out")
    assert "no column 'body'" in refused(tmp_path, "score", "artifact", "x.csv", "out", "--text", "body")
    assert "no column of text" in refused(tmp_path, "score", "artifact", "n.csv", "out")
    assert "no column 'other'" in refused(tmp_path, "score", "artifact", "x.csv", "out", "--columns", "other")


@pytest.mark.parametrize("arguments", [["train"], ["nonsense"], ["train", "x", "-o", "y", "--nonsense"]], ids=str)
def test_usage_errors_exit_with_2(tmp_path: Path, arguments: list[str]) -> None:
    result = rayclf(tmp_path, *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "Usage" in result.stderr


HEAVY = ("torch", "transformers", "ray", "pyarrow", "pydantic", "numpy")


@pytest.mark.parametrize("module", ["rayclf", "rayclf.cli.main"])
def test_help_and_import_load_nothing_heavy(module: str) -> None:
    """What makes ``rayclf --help`` and usage errors answer at once."""
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_the_whole_of_rayclf_imports_neither_deepspeed_nor_bitsandbytes() -> None:
    code = (
        "import sys, rayclf; [getattr(rayclf, name) for name in rayclf.__all__]; import rayclf.training.worker;"
        "print([name for name in ('deepspeed', 'bitsandbytes') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


@pytest.mark.parametrize("command", ["demo", "train", "evaluate", "predict", "info", "score", "serve", "export"])
def test_every_command_has_help_with_an_example(tmp_path: Path, command: str) -> None:
    result = rayclf(tmp_path, command, "--help")
    assert result.returncode == 0
    assert "Example: rayclf" in result.stdout


def test_demo_data_is_whole() -> None:
    for name in ("questions.csv", "support.jsonl", "corpus.csv", "LICENSE"):
        assert data_file(name).stat().st_size > 0
