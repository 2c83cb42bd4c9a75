"""Charts as PNG files: of the same descriptions as the page's, whatever the labels are called."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import numpy.typing as npt
import pytest

from rayclf.charts import BarChart, Chart, Heatmap, Histogram, LineChart, write_png
from rayclf.charts.pages import LIGHT

HOSTILE = "</svg> & $\\frac{ _x_ 配送 \x00\x1b\ud800\n$"
CHARTS: dict[str, Chart] = {
    "line": LineChart({HOSTILE: [(1, 2.0), (2, 3.0)], "_hidden": [(1, 1.0)], "": []}, HOSTILE, HOSTILE, HOSTILE),
    "bars": BarChart([(HOSTILE, 3), ("", None), ("x" * 200, 0)], HOSTILE, HOSTILE),
    "histogram": Histogram([0, 1, 2], [1, 2], HOSTILE, {HOSTILE: 1, "far": 9}, HOSTILE),
    "heatmap": Heatmap([HOSTILE, "b"], [[1, 0], [None, 2]], [1, 3], HOSTILE, HOSTILE, HOSTILE),
}


def draw(chart: Chart) -> bytes:
    file = io.BytesIO()
    write_png(chart, file)
    return file.getvalue()


def pixels(picture: bytes) -> npt.NDArray[np.uint8]:
    """``[height, width, 4]``, decoded by the tool that drew it."""
    from matplotlib.image import imread

    return (imread(io.BytesIO(picture)) * 255).astype(np.uint8)


def has(picture: npt.NDArray[np.uint8], colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(picture[..., :3].astype(int) - wanted).max(axis=-1) <= 1).any())


@pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)
def test_names_are_words_and_never_formulas(chart: Chart) -> None:
    picture = draw(chart)
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > 1000
    assert height > 100
    assert b"Matplotlib" not in picture
    assert zlib.crc32(picture[12:29]) == struct.unpack(">I", picture[29:33])[0]


def test_a_picture_has_the_colours_of_the_page() -> None:
    lines = LineChart({"a": [(0, 1), (1, 2)], "b": [(0, 2), (1, 1)]}, "x", "y")
    drawn = pixels(draw(lines))
    assert has(drawn, LIGHT["c0"])
    assert has(drawn, LIGHT["c1"])
    assert not has(drawn, LIGHT["c2"])
    assert has(drawn, LIGHT["paper"])


def test_values_that_are_no_numbers_and_long_lines() -> None:
    nan = float("nan")
    series = {"a": [(0, nan), (1, None), (2, 3.0)], "b": [(i, float(i % 7)) for i in range(100_000)], "c": [(nan, 1.0)]}
    assert draw(LineChart(series, "step", "loss", dots=True)).startswith(b"\x89PNG")
    assert draw(BarChart([(f"label {i}", nan) for i in range(25_000)], "labels", "rows")).startswith(b"\x89PNG")


def test_the_same_chart_is_the_same_file() -> None:
    chart = LineChart({"a": [(0, 1), (1, 2)]}, "x", "y", reference=["a"], unit=True)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(chart)
    chart = LineChart({"a": [(0, 1), (1, 0.5)]}, "x", "y", marks={"a": (0.5, 0.75)}, unit=True)
    assert draw(chart) == draw(chart)


def test_matplotlib_is_imported_only_for_pictures() -> None:
    code = "import sys, rayclf.charts, rayclf.training.report.page; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
