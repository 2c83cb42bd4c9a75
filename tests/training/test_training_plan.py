"""What is known of a job before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rayclf
from rayclf.config import Config
from rayclf.config_file import load_config
from rayclf.errors import ConfigError
from rayclf.training.plan import find_data, plan_model, resolve_settings
from rayclf.training.run import create_run

SETTINGS = {"data.separator": ";", "data.test": 0, "data.validation": 0.1}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Rows of two labels in one cell, parted by ';'."""
    place = tmp_path / "rows.csv"
    place.write_text("text,label\n" + "".join(f"row {n},{'ab'[n % 2]};c\n" for n in range(60)))
    return place


def test_what_parted_the_labels_of_prepared_data_is_remembered(file: Path, tmp_path: Path) -> None:
    rayclf.prepare(file, tmp_path / "data", overrides=SETTINGS)
    found = find_data(tmp_path / "data", None, Config())
    assert (found.separator, found.space.names) == (";", ("a", "b", "c"))


def test_so_is_that_of_a_file(file: Path) -> None:
    assert find_data(file, None, load_config(None, SETTINGS)).separator == ";"


@pytest.mark.parametrize(
    ("architecture", "settings", "rows"),
    [
        ("bert", {}, 5_120),
        ("bert", {"model.method": "lora"}, 5_120),
        ("llama", {}, 5_120),
        ("llama", {"model.method": "qlora"}, 5_120),
        ("bert", {"model.method": "head"}, 0),
        ("bert", {"model.method": "head", "train.head_rows": 64}, 64),
        ("llama", {"train.head_rows": 0}, 0),
    ],
)
def test_the_head_comes_first_unless_it_is_all_that_is_trained(
    file: Path, backbone: Callable[[str], Path], architecture: str, settings: dict[str, Any], rows: int
) -> None:
    config = load_config(None, {**SETTINGS, "model.backbone": str(backbone(architecture)), **settings})
    assert plan_model(config, find_data(file, None, config)).head_rows == rows


@pytest.mark.parametrize(
    ("strategy", "offload", "wanted"),
    [
        ("ddp", "parameters", "needs train.strategy deepspeed-zero3, not ddp"),
        ("single", "optimizer", "needs train.strategy deepspeed-zero2 or deepspeed-zero3, not single"),
        ("deepspeed-zero2", "parameters", "not deepspeed-zero2; there is also train.offload: optimizer"),
    ],
)
def test_what_a_strategy_cannot_offload_is_refused(strategy: str, offload: str, wanted: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.offload: {offload} .*{wanted}"):
        resolve_settings(None, None, {"train.strategy": strategy, "train.offload": offload})


@pytest.mark.parametrize(
    ("strategy", "offload"), [("auto", "parameters"), ("deepspeed-zero1", "optimizer"), ("ddp", "none")]
)
def test_what_it_can_is_not(strategy: str, offload: str) -> None:
    settings = resolve_settings(None, None, {"train.strategy": strategy, "train.offload": offload})
    assert (settings.train.strategy, settings.train.offload) == (strategy, offload)


def test_patience_needs_rows_to_watch(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.patience: there are no validation rows"):
        rayclf.train(file, tmp_path / "run", overrides={**SETTINGS, "data.validation": 0, "evaluation.patience": 1})


def test_a_run_that_goes_on_is_looked_at_with_what_it_began_with(file: Path, tmp_path: Path) -> None:
    begun = load_config(None, {**SETTINGS, "train.strategy": "deepspeed-zero2"})
    space = find_data(file, None, begun).space
    run = create_run(tmp_path / "run", begun, space, {"data": str(file), "test": None})
    with pytest.raises(ConfigError, match=r"train\.offload: parameters needs train\.strategy deepspeed-zero3"):
        rayclf.train(file, run.folder, overrides={"train.offload": "parameters"}, resume=True)
