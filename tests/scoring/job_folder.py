"""A scoring job's output without a model: each row's text comes out as it went in, by the real units and manifest."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from rayclf.data.extract import row_ids
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.units import Unit, Units, find_files, look_at, plan_units, read_unit


def write_input(folder: Path, ids: bool = False) -> Path:
    """Two files of 1,100 and 600 rows."""
    folder.mkdir()
    for name, rows in (("a.jsonl", 1100), ("b.jsonl", 600)):
        lines = [{"text": f"{name} {row}"} | ({"id": f"{name}-{row}"} if ids else {}) for row in range(rows)]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def begin(source: Path | str, output: Path | str, **more: Any) -> tuple[Manifest, list[Unit]]:
    """The manifest of a job, begun or gone on with, and the units that are left."""
    files = [look_at(path, name) for path, name in find_files(source).items()]
    manifest = Manifest(output)
    plan = {"format": 1, **more, "rows_a_unit": 512, "files": [file.to_json(512) for file in files]}
    done = manifest.open(plan, overwrite=False)
    units: Units = plan_units(files, 512)
    return manifest, [unit for unit in units if unit.name not in done]


def run(manifest: Manifest, units: Iterable[Unit], began: float = 0.0) -> list[dict[str, Any]]:
    """Do units, one second each from ``began`` on; returns their records."""
    records = []
    for unit in units:
        table, problems = read_unit(unit)
        result = pa.table({"id": row_ids(table, unit.source, unit.first + 1), "text": table["text"]})
        record = {
            "unit": unit.name,
            "rows": unit.rows,
            "errors": len(problems),
            "tokens": unit.rows * 2,
            "files": [manifest.write_part(unit.name, result)],
            "began": began,
            "ended": began + 1,
        }
        manifest.commit(unit.name, record)
        records.append(record)
        began += 1
    return records
