"""The Grafana dashboards: all of them is known to Grafana, and what they show is there to be shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from rayclf.job_metrics import DEFINITIONS

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "cluster" / "grafana").glob("*.json"))
register_default_plugins()


def unknown(given: Any, kept: Any, path: str = "") -> Iterator[str]:
    """What of ``given`` is not in ``kept``."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            yield from unknown(value, kept.get(name), f"{path}.{name}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for place, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from unknown(one, other, f"{path}[{place}]")
    elif given != kept:
        yield path


def through_grafana(dashboard: dict[str, Any]) -> Any:
    """What is left of a dashboard once it was read into Grafana's own types, which leave out what they do not know."""
    return json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(dashboard)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_grafana_knows_every_field(file: Path) -> None:
    dashboard = json.loads(file.read_text())
    assert list(unknown(dashboard, through_grafana(dashboard))) == []
    dashboard["panels"][1]["fieldConfig"]["defaults"]["untis"] = "s"
    assert list(unknown(dashboard, through_grafana(dashboard))) == [".panels[1].fieldConfig.defaults.untis"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_panels_have_a_place_of_their_own(file: Path) -> None:
    panels = json.loads(file.read_text())["panels"]
    taken = set[tuple[int, int]]()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.parametrize("file", ["cluster/grafana/rayclf-jobs.json", "docs/how-to/watch.md"])
def test_what_is_written_of_the_metrics_of_jobs_is_true(file: str) -> None:
    """Every metric is in the dashboard and in the page, and neither speaks of one that is not there."""
    assert set(re.findall(r"ray_rayclf_((?:train|score)_\w+)", (ROOT / file).read_text())) == set(DEFINITIONS)
