"""``rayclf data inspect``: the same numbers in all three forms."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rayclf.cli.data_inspect import inspect

app = typer.Typer()
app.command()(inspect)
ROWS = "".join(f"zanzibar number {n},{'ab'[n % 2]}\n" for n in range(40))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows of which one is doubled, at odds with itself, and one is bad."""
    place = tmp_path / "x.csv"
    place.write_text(f"text,label\n{ROWS}zanzibar number 3,a\nzanzibar without label,\n")
    return place


def test_terminal_json_and_page_tell_the_same(data: Path, backbone: Callable[[str], Path]) -> None:
    page = data.with_name("out.html")
    options = [str(data), "--backbone", str(backbone("bert"))]
    told = CliRunner().invoke(app, [*options, "--html", str(page)], catch_exceptions=False)
    assert told.exit_code == 0
    printed = CliRunner().invoke(app, [*options, "--json"], catch_exceptions=False)
    found = json.loads(printed.stdout)
    assert printed.stderr == ""
    assert (found["rows"]["read"], found["rows"]["kept"]) == (42, 41)
    assert found["duplicates"]["examples"][0][1]["row"] == 41
    tokens = found["tokens"]
    for text in (told.stdout, page.read_text()):
        assert "42 rows = 41 kept + 1 that cannot be used" in text
        assert "1 texts, in 2 rows, have different labels" in text
        assert f"median {tokens['median']}, p95 {tokens['p95']}" in text
        assert "zanzibar" not in text


def test_flags_reach_the_inspection(tmp_path: Path) -> None:
    rows = [{"one": f"first {n}", "two": f"second {n}", "kinds": "a;b" if n % 2 else "a"} for n in range(6)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--text", "one", "--text-pair", "two", "--label", "kinds", "--separator", ";"]
    arguments = [str(tmp_path / "x.jsonl"), *options, "--json"]  # with or without the default backbone there
    found = json.loads(CliRunner().invoke(app, arguments, catch_exceptions=False).stdout)
    assert found["problem_type"] == "multilabel"
    assert [column["role"] for column in found["columns"]] == ["text", "text pair", "label"]


def test_it_needs_no_ray(data: Path, backbone: Callable[[str], Path]) -> None:
    code = (
        "import sys; from rayclf.data.inspect import inspect;"
        f"inspect({str(data)!r}, backbone={str(backbone('bert'))!r}); print('ray' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "False"
