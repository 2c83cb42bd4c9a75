"""What is known of a job before it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rayclf
from rayclf.config import Config
from rayclf.config_file import load_config
from rayclf.training.plan import find_data, plan_model

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
