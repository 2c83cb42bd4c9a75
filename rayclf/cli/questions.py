"""What ``rayclf data prepare`` asks: only what neither a flag nor the data answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import typer

from rayclf.config_file import load_config
from rayclf.data.columns import likely_separator
from rayclf.data.sources import find_sources
from rayclf.data.survey import first_rows, plan_extract
from rayclf.errors import ConfigError


class Questions:
    """Asks on the terminal where ``asks``; else takes the ``defaults``, or raises ConfigError that names the flag."""

    def __init__(self, data: str, config: str | None, *, asks: bool, defaults: bool) -> None:
        self._sources = find_sources(data)
        self._config = config
        self._asks, self._defaults = asks, defaults

    def answers(self, given: Mapping[str, Any], *, test_given: bool) -> dict[str, Any]:
        """What was found out beyond what is ``given``, as overrides; raises AmbiguousColumn as the finders do."""
        settings = load_config(self._config, given)
        extract = plan_extract(self._sources, settings.data)
        found: dict[str, Any] = {f"data.{name}": value for name, value in extract.reads.model_dump().items() if value}
        found["data.label"] = extract.label
        sample = first_rows(self._sources)
        if self._asks:
            self._preview(sample, [*extract.reads.columns, extract.label or ""])
        if "data.separator" not in given:
            mark = likely_separator(sample[extract.label])
            if mark is not None:
                part = self._yes_or_no(
                    "--separator", f"Column '{extract.label}' looks like several labels parted by '{mark}'. Part them?"
                )
                found["data.separator"] = mark if part else "|"
        splits = not test_given and not {"data.test", "data.validation", "data.split"} & given.keys()
        if splits and not self._yes_or_no("--test-share", "Hold out rows for validation and a final test?"):
            found |= {"data.test": 0.0, "data.validation": 0.0}
        shares = {"data.test": "--test-share", "data.validation": "--validation-share"}
        for path, flag in shares.items():
            if path in given or path in found or (path == "data.test" and test_given):
                continue
            default = getattr(settings.data, path.removeprefix("data."))
            found[path] = self._share(flag, path.removeprefix("data."), default)
        if "data.shuffle" not in given:
            found["data.shuffle"] = self._yes_or_no("--shuffle", "Mix the training rows?")
        return {path: value for path, value in found.items() if path not in given}

    def _yes_or_no(self, flag: str, question: str) -> bool:
        return bool(typer.confirm(question, default=True)) if self._may_ask(flag) else True

    def _share(self, flag: str, part: str, default: float) -> float:
        if not self._may_ask(flag):
            return default
        return float(typer.prompt(f"Share of the rows for the {part} part", default=default, type=float))

    def _may_ask(self, flag: str) -> bool:
        if not self._asks and not self._defaults:
            raise ConfigError(
                f"{flag}: not given, and there is no terminal to ask on; give it, or --yes for the defaults"
            )
        return self._asks

    def _preview(self, sample: pa.Table, columns: list[str]) -> None:
        from rich.table import Table

        from rayclf.cli.show import console

        table = Table(title="first rows", title_justify="left")
        for name in columns:
            table.add_column(name, overflow="fold", max_width=60)
        for row in sample.select(columns).slice(0, 5).to_pylist():
            table.add_row(*(str(value)[:200] for value in row.values()))
        console.print(table)
