"""``report.html`` and ``charts/*.png``: a run at a glance, in files that need nothing else.

Texts of the data are in it only when the run was told to keep them (``output.texts``).
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rayclf import storage
from rayclf.charts import Chart, figure, page, write_png
from rayclf.training.report import curves, facts, tables
from rayclf.training.run import Run


@dataclass(frozen=True)
class Record:
    """What a run left on disk, for its report: files that are not there are empty here."""

    events: Sequence[Mapping[str, Any]]  # metrics.jsonl
    info: Mapping[str, Any]  # artifact/rayclf.json
    status: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Any] = field(default_factory=dict)
    mistakes: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, run: Run) -> Record:
        """The record of a finished run; raises FileNotFoundError when it has no artifact."""
        config = run.folder / "config.yaml"
        return cls(
            events=run.events,
            info=storage.read_json(run.artifact / "rayclf.json"),
            status=_optional(run.folder / "status.json", {}),
            config=(yaml.safe_load(config.read_text(encoding="utf-8")) or {}) if config.is_file() else {},
            curves=_optional(run.folder / "curves.json", {}),
            mistakes=_optional(run.folder / "mistakes.json", []),
        )


def _optional(file: Path, default: Any) -> Any:
    return storage.read_json(file) if file.is_file() else default


def write_report(run: Run) -> None:
    """Draw the report of a finished run from its folder: ``report.html``, and each of its charts as a PNG file.

    Everything is drawn before the first file is written, and an earlier report is replaced.
    """
    drawn = sections(Record.read(run))
    title = facts.title(run.status)
    charts = [one for one in drawn if not isinstance(one, str)]
    pictures = {f"{name}.png": _png(chart) for name, chart in zip(file_names(charts), charts, strict=True)}
    html = _page(title, drawn).encode()
    folder = run.folder / "charts"
    shutil.rmtree(folder, ignore_errors=True)
    with storage.folder_whole(folder) as draft:
        for name, picture in pictures.items():
            (draft / name).write_bytes(picture)
    with storage.write_whole(run.folder / "report.html") as file:
        file.write(html)


def render(record: Record) -> str:
    """The page as HTML."""
    return _page(facts.title(record.status), sections(record))


def sections(record: Record) -> list[str | Chart]:
    """All of the page, in order: HTML and descriptions of charts, none of which is empty."""
    parts = [
        facts.facts(record.events, record.info, record.status, record.config),
        curves.training(record.events, record.config),
        curves.validation(record.events, record.config),
        tables.metrics(record.events, record.info, record.config),
        tables.labels(record.events, record.info),
        tables.confusions(record.events, record.info),
        curves.decisions(record.curves, record.info),
        tables.mistakes(record.mistakes),
    ]
    return [one for part in parts for one in part if isinstance(one, str) or not one.empty]


def file_names(charts: Sequence[Chart]) -> list[str]:
    """Names for the charts' files, made of their own: ``ROC curves`` is ``roc-curves``, a second one ``roc-curves-2``.

    Only ASCII letters and digits are left of a name, since own metrics may be called anything.
    """
    names: list[str] = []
    for chart in charts:
        name = re.sub("[^a-z0-9]+", "-", chart.name.lower()[:60]).strip("-") or "chart"
        same = (f"{name}-{count}" if count > 1 else name for count in range(1, len(charts) + 2))
        names.append(next(one for one in same if one not in names))
    return names


def _page(title: str, drawn: Sequence[str | Chart]) -> str:
    return page(title, [one if isinstance(one, str) else figure(one) for one in drawn])


def _png(chart: Chart) -> bytes:
    buffer = io.BytesIO()
    write_png(chart, buffer)
    return buffer.getvalue()
