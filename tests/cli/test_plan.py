"""``rayclf plan``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rayclf.cli.plan import plan
from rayclf.cli.show_plan import bar, duration
from rayclf.errors import ResourceError

app = typer.Typer()
app.command()(plan)


def test_table_and_json_tell_the_same(backbone: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("train: {epochs: 2}\n")
    options = [
        str(tmp_path / "x.yaml"),
        "--backbone",
        str(backbone("llama")),
        "--rows",
        "1000",
        "--tokens-per-row",
        "20",
    ]
    options += ["--labels", "3", "--device", "l4", "--gpus", "2"]
    told = CliRunner().invoke(app, options, catch_exceptions=False)
    found = json.loads(CliRunner().invoke(app, [*options, "--json"], catch_exceptions=False).stdout)
    assert told.exit_code == 0
    assert (found["tokens"], found["strategy"], found["fits"], found["mend"]) == (40_000, "ddp", True, None)
    assert found["memory"]["total"] == sum(found["memory"].values()) - found["memory"]["total"]
    for text in ("lora, ddp, bf16", "2 × l4", "40 k = 1000 rows × 20.0 tokens × 2 epoch(s)", "GPU-hours", "fits"):
        assert text in told.stdout
    assert f"{found['memory']['total'] / 2**30:.2f}" in told.stdout
    assert "texts are cut" not in told.stdout
    options[options.index("20")] = "20000"
    assert "--tokens-per-row 20000: longer texts are cut; see" in CliRunner().invoke(app, options).stdout


def test_columns_of_the_data_are_chosen_by_flags(backbone: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    lines = [f"a red house number {n},the blue sea number {n},{'xy'[n % 2]}" for n in range(60)]
    file.write_text("\n".join(["one,two,kind", *lines]))
    options = ["--data", str(file), "--backbone", str(backbone("bert")), "--device", "cpu", "--json"]
    asked = CliRunner().invoke(app, options)
    assert "choose one with --text" in str(asked.exception)
    flags = ["--template", "{one} {two}", "--label", "kind"]
    told = CliRunner().invoke(app, [*options, *flags], catch_exceptions=False)
    assert json.loads(told.stdout)["tokens"] > 0


def test_what_cannot_fit_is_shown_and_refused(tmp_path: Path) -> None:
    fields = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 32,
              "intermediate_size": 14336, "vocab_size": 128256}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(fields))
    options = ["--backbone", str(tmp_path), "--device", "t4", "--set", "model.method=full"]
    result = CliRunner().invoke(app, options)
    assert "does not fit" in result.stdout
    assert "▶" in result.stdout
    assert isinstance(result.exception, ResourceError)
    assert "GiB of each t4, which has 14.7; add --set train." in str(result.exception)
    with pytest.raises(ResourceError):
        CliRunner().invoke(app, [*options, "--json"], catch_exceptions=False)


def test_bars_and_durations() -> None:
    assert (bar(0.5), bar(0), bar(2)[-1]) == ("█" * 16, "", "▶")
    assert [duration(s) for s in (0.1, 90, 5400, 200_000)] == ["1 seconds", "1.5 minutes", "1.5 hours", "2.3 days"]
