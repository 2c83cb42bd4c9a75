"""Write the reference pages from the code: ``python docs/generate.py``. A test checks that they are up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel

from rayclf.config import Config

FOLDER = Path(__file__).parent / "reference"


def configuration() -> str:
    """The page of all configuration fields."""
    lines = [
        "# Configuration",
        "",
        "One YAML file a job (`--config`), any field of which `--set section.field=value` overrides. Every field has",
        "a default; an unknown one is an error that names the nearest. Generated from `rayclf/config.py`.",
    ]
    for name, field in Config.model_fields.items():
        lines += ["", f"## {name}", "", "| field | default | meaning |", "| --- | --- | --- |"]
        lines += _rows(field.annotation, "")
    return "\n".join(lines) + "\n"


def _rows(section: object, prefix: str) -> list[str]:
    assert isinstance(section, type)
    assert issubclass(section, BaseModel)
    rows = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows += _rows(field.annotation, f"{prefix}{name}.")
        else:
            default = "" if field.default is None else f"`{field.default}`".replace("|", "\\|")
            rows.append(f"| `{prefix}{name}` | {default} | {field.description} |")
    return rows


def command_line() -> str:
    """The page of all commands, as typer tells them."""
    command = [sys.executable, "-m", "typer", "rayclf.cli.main", "utils", "docs", "--name", "rayclf"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
    return text.replace("# `rayclf`", "# Command line", 1).rstrip() + "\n"


PAGES = {"configuration.md": configuration, "cli.md": command_line}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
