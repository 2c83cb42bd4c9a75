"""Charts and pages: whole, self-contained, and safe to open whatever the labels are called."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayclf.charts import (
    BarChart,
    Heatmap,
    LineChart,
    bar_chart,
    figure,
    heading,
    histogram,
    line_chart,
    note,
    page,
    table,
)
from rayclf.charts.heatmap import compact
from rayclf.charts.svg import ticks

steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

HOSTILE = "</svg><script>alert('1')</script> & \"quoted\" \x00\x1b\ud800"
SHOWN = HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd").replace("\ud800", "\ufffd")
NUMBER = st.floats(0, 1e12) | st.integers(0, 10**12)
FRAGMENTS: dict[str, Callable[[str], str]] = {
    "heading": heading,
    "note": note,
    "table": lambda text: table((text, "b"), [(text, 1)]),
    "line": lambda text: line_chart({text: [(1, 2), (2, 3)]}, text, text),
    "bars": lambda text: bar_chart([(text, 1)], text, text),
    "histogram": lambda text: histogram([0, 1, 2], [1, 2], text, [(text, 1), (text, 9)]),
    "heatmap": lambda text: Heatmap([text, "b"], [[1, 0], [None, 2]], [1, 3], text, text, text).svg(),
    "figure": lambda text: figure(LineChart({text: [(1, 2)]}, text, text, text, faint=[text])),
}


def parse(fragment: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{fragment}</div>")


def words(fragment: str) -> list[str]:
    """The texts that are drawn, in order."""
    return ["".join(node.itertext()) for node in parse(fragment).iter("text")]


def numbers(fragment: str, tag: str, name: str) -> list[float]:
    return [float(node.attrib[name]) for node in parse(fragment).iter(tag)]


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", FRAGMENTS.values(), ids=FRAGMENTS)
def test_names_are_text_and_never_markup(draw: Callable[[str], str]) -> None:
    root = parse(draw(HOSTILE))
    assert "script" not in {node.tag for node in root.iter()}
    texts = ["".join(node.itertext()) for node in root.iter()]
    attributes = [value for node in root.iter() for value in node.attrib.values()]
    assert any(SHOWN in text for text in texts + attributes)


@pytest.mark.parametrize("draw", FRAGMENTS.values(), ids=FRAGMENTS)
@steady
@given(text=st.text())
def test_any_name_is_well_formed(draw: Callable[[str], str], text: str) -> None:
    parse(draw(text)).itertext()


@pytest.mark.parametrize(
    "drawn",
    [
        line_chart({}, "step", "loss"),
        line_chart({"x": []}, "step", "loss"),
        line_chart({"x": [(1, float("nan")), (2, None), (3, float("inf"))]}, "step", "loss"),
        bar_chart([], "labels", "rows"),
        histogram([], [], "tokens"),
        histogram([0], [], "tokens"),
        histogram([0, 1, 2], [0, 0], "tokens", [("p95", 1)]),
        LineChart({"a guess": [(0, 0), (1, 1)]}, "x", "y", reference=["a guess"]).svg(),
        Heatmap([], [], [], "predicted", "expected", "confusions").svg(),
        Heatmap(["a", "b"], [[0, None], [0, 0]], [0, 0], "predicted", "expected", "confusions").svg(),
    ],
)
def test_nothing_is_said_to_be_nothing(drawn: str) -> None:
    assert drawn == note("nothing to draw")


# --- page and table --------------------------------------------------------------------------------------------------


def test_a_page_is_whole_and_needs_nothing_else() -> None:
    made = page(HOSTILE, [draw("name") for draw in FRAGMENTS.values()])
    root = ElementTree.fromstring(made)
    tags = [node.tag for node in root.iter()]
    assert [root.tag, *(node.tag for node in root)] == ["html", "head", "body"]
    assert tags.count("svg") == 5
    assert not {"script", "link", "img", "iframe", "object"} & set(tags)
    assert not re.search(r"https?:|//|url\(|@import|\bon[a-z]+=|href|src=", made)
    assert root.findtext("head/title") == root.findtext("body/h1") == SHOWN
    made.encode()


def test_a_page_is_readable_in_light_and_dark_mode() -> None:
    """Every colour is a variable, and each has a value for the dark."""
    style = ElementTree.fromstring(page("x", [])).findtext("head/style") or ""
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    assert "color-scheme: light dark" in light
    names = set(re.findall(r"(--\w+):", light))
    assert names == set(re.findall(r"(--\w+):", dark)) == set(re.findall(r"var\((--\w+)\)", style))
    drawn = "".join(draw("name") for draw in FRAGMENTS.values())
    assert not re.search(r"#[0-9a-f]{3,6}\b", drawn)
    used = {name for node in parse(drawn).iter() for name in node.attrib.get("class", "").split()}
    assert used <= set(re.findall(r"\.(\w+) \{", style))


def test_a_table_of_what_metrics_hold() -> None:
    rows = list(parse(table(("a", "b"), [("x", 0.5), (None, float("nan")), (7, True)])).iter("tr"))
    assert [[cell.text for cell in row] for row in rows] == [["a", "b"], ["x", "0.5000"], ["–", "–"], ["7", "True"]]
    assert len(list(parse(table(("a",), [])).iter("tr"))) == 1


# --- lines -----------------------------------------------------------------------------------------------------------


def test_lines_go_from_corner_to_corner() -> None:
    drawn = line_chart({"loss": [(0, 1.0), (50, float("nan")), (100, 3.0)]}, "step", "loss")
    (line,) = parse(drawn).iter("polyline")
    (left, bottom), (right, top) = [map(float, point.split(",")) for point in line.attrib["points"].split()]
    assert left < right
    assert top < bottom
    assert words(drawn) == ["1.0", "1.5", "2.0", "2.5", "3.0", *map(str, range(0, 101, 20)), "step", "loss"]
    assert "nan" not in drawn


def test_a_line_of_one_point_is_seen() -> None:
    drawn = line_chart({"training": [(1, 2.0), (9, 1.0)], "validation": [(9, 1.5)], "none": []}, "step", "loss")
    assert len(list(parse(drawn).iter("polyline"))) == 1
    assert len(list(parse(drawn).iter("circle"))) == 1
    assert len(words(line_chart({"x": [(1, 2.0)]}, "step", "loss"))) == 4


def test_long_lines_are_thinned_but_for_their_ends() -> None:
    (line,) = parse(line_chart({"x": [(i, i) for i in range(100_001)]}, "step", "loss")).iter("polyline")
    (short,) = parse(line_chart({"x": [(i, i) for i in range(1000)]}, "step", "loss")).iter("polyline")
    places = line.attrib["points"].split()
    assert 700 < len(places) < 1500
    assert (places[0], places[-1]) == (short.attrib["points"].split()[0], short.attrib["points"].split()[-1])
    assert len(short.attrib["points"].split()) == 1000


def test_a_legend_has_as_many_rows_as_it_needs() -> None:
    few, many = (line_chart({f"a name of a label {i}": [(0, i)] for i in range(n)}, "x", "y") for n in (2, 8))
    heights = [float(svg.attrib["viewBox"].split()[3]) for page in (few, many) for svg in parse(page).iter("svg")]
    assert heights[1] > heights[0] == 260
    names = [node for node in parse(many).iter("text") if "class" in node.attrib]
    assert len({(node.attrib["x"], node.attrib["y"]) for node in names}) == 8
    assert len({node.attrib["class"] for node in names}) == 8
    top = min(numbers(many, "circle", "cy"))
    assert all(float(node.attrib["y"]) < top for node in names)


def test_what_lines_are_compared_with_looks_unlike_them() -> None:
    series = {"raw": [(0, 3.0), (1, 1.0)], "line": [(0, 0.5), (1, 0.75)], "guess": [(0, 0.0), (1, 1.0)]}
    drawn = LineChart(series, "x", "y", reference=["guess"], faint=["raw"], marks={"line": (0.5, 0.6)}, unit=True).svg()
    raw, line, guess = parse(drawn).iter("polyline")
    assert [one.attrib["class"] for one in (raw, line, guess)] == ["soft", "c0", "soft"]
    assert "stroke-opacity" in raw.attrib
    assert "stroke-dasharray" in guess.attrib
    assert "stroke-dasharray" not in line.attrib
    assert [node.attrib["class"] for node in parse(drawn).iter("circle")] == ["c0"]
    assert raw.attrib["points"].split()[0] == guess.attrib["points"].split()[1].replace("706.0", "76.0")  # on the edge


def test_short_lines_are_dotted_on_request() -> None:
    chart = LineChart({"few": [(0, 1), (1, 2)], "many": [(i, i) for i in range(100)]}, "x", "y", dots=True)
    assert len(numbers(chart.svg(), "circle", "cx")) == 2


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0.6931, 0.6935, ["0.6931", "0.6932", "0.6933", "0.6934", "0.6935"]),
        (0, 5e-5, ["0", "1e-05", "2e-05", "3e-05", "4e-05", "5e-05"]),
        (7, 7, ["7"]),
        (-1e308, 1e308, ["-1e+308", "1e+308"]),
        (0, 5e-324, ["0", "4.94e-324"]),
    ],
)
def test_ticks(low: float, high: float, shown: list[str]) -> None:
    assert [words for _, words in ticks(low, high)] == shown


def test_steps_are_whole() -> None:
    assert [words for _, words in ticks(0, 2, 8, whole=True)] == ["0", "1", "2"]


@steady
@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300), st.booleans())
def test_ticks_lie_in_their_range(one: float, other: float, whole: bool) -> None:
    low, high = min(one, other), max(one, other)
    found = ticks(low, high, 5, whole)
    assert 1 <= len(found) <= 11
    assert all(low <= value <= high for value, _ in found)


# --- heatmap ---------------------------------------------------------------------------------------------------------


def test_a_heatmap_is_deep_where_most_of_a_row_is() -> None:
    chart = Heatmap(["cat", "dog"], [[30, 10], [None, 1200]], [40, 2400], "predicted", "expected", "confusions")
    assert chart.shares == [[0.75, 0.25], [0.0, 0.5]]
    deep = [
        float(node.attrib["fill-opacity"]) for node in parse(chart.svg()).iter("rect") if "fill-opacity" in node.attrib
    ]
    assert deep[0] > deep[3] > deep[1] > deep[2] == 0
    assert max(deep) < 0.66  # a number on it can be read
    titles = [node.text for node in parse(chart.svg()).iter("title")]
    assert titles == ["cat → cat: 30", "cat → dog: 10", "dog → cat: –", "dog → dog: 1,200"]
    assert words(chart.svg()) == [
        "predicted →", "expected ↓", "cat", "cat", "dog", "dog", "30", "10", "?", "1.2k",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "?"), (0, "0"), (999, "999"), (1234, "1.2k"), (25_000, "25k"), (3e6, "3.0M"), (2e10, "20G")],
)
def test_counts_of_cells_are_short(value: float | None, shown: str) -> None:
    assert compact(value) == shown


# --- bars ------------------------------------------------------------------------------------------------------------


def test_bars_are_as_long_as_their_values() -> None:
    drawn = bar_chart([("cat", 1200), ("dog", 600), ("hen", 0)], "labels", "rows")
    widths = numbers(drawn, "rect", "width")
    assert widths[1] == pytest.approx(widths[0] / 2, abs=0.1)
    assert widths[2] == 0
    assert words(drawn) == ["cat", "1,200", "dog", "600", "hen", "0"]
    assert parse(drawn).findtext("p") == "labels, rows"
    assert parse(drawn).findtext("svg/g/title") == "cat: 1,200 rows"


def test_only_the_first_bars_are_drawn() -> None:
    drawn = bar_chart([(f"label {i}", 100 - i) for i in range(100)], "labels", "rows", most=5)
    assert len(numbers(drawn, "rect", "width")) == 5
    assert parse(drawn).findtext("p") == "labels, rows; the first 5 of 100"


def test_bars_of_no_number() -> None:
    drawn = bar_chart([("a", float("nan")), ("b", float("inf")), ("c", 0)], "n", "rows")
    assert numbers(drawn, "rect", "width") == [0, 0, 0]
    assert words(drawn) == ["a", "–", "b", "–", "c", "0"]
    assert drawn == note("n, rows") + BarChart([("a", None), ("b", None), ("c", 0)], "n", "rows").svg()


@pytest.mark.parametrize(
    ("name", "shown"), [("a" * 80, "a" * 29 + "…"), ("猫" * 80, "猫" * 14 + "…"), ("a" * 30, "a" * 30)]
)
def test_long_names_are_cut_and_kept_whole_in_the_title(name: str, shown: str) -> None:
    drawn = bar_chart([(name, 1)], "labels", "rows")
    assert words(drawn)[0] == shown
    assert (parse(drawn).findtext("svg/g/title") or "").startswith(f"{name}:")


# --- histogram -------------------------------------------------------------------------------------------------------


def test_a_histogram_stands_on_its_axis() -> None:
    drawn = histogram([0, 10, 20, 30], [4, 8, 0], "tokens")
    heights, tops = numbers(drawn, "rect", "height"), numbers(drawn, "rect", "y")
    assert heights[0] == pytest.approx(heights[1] / 2, abs=0.1)
    assert heights[2] == 0
    assert len({round(top + height, 1) for top, height in zip(tops, heights, strict=True)}) == 1
    assert words(drawn) == ["0", "8", "0", "15", "30", "tokens"]


def test_marks_outside_do_not_stretch_the_axis() -> None:
    marks = [("median", 12), ("max length", 8192), ("least", -1)]
    drawn = histogram([0, 10, 20, 30], [4, 8, 2], "tokens", marks)
    assert numbers(drawn, "rect", "width") == numbers(histogram([0, 10, 20, 30], [4, 8, 2], "tokens"), "rect", "width")
    assert drawn == histogram([0, 10, 20, 30], [4, 8, 2], "tokens", dict(marks))
    assert words(drawn)[-3:] == ["median 12", "max length 8,192 →", "← least -1"]
    dashed = [node for node in parse(drawn).iter("path") if "stroke-dasharray" in node.attrib]
    assert len(dashed) == 1
    assert len({node.attrib["y"] for node in parse(drawn).iter("text") if "class" in node.attrib}) == 3


@pytest.mark.parametrize(("edges", "counts"), [([0, 1], []), ([0, 1], [1, 2]), ([], [1])])
def test_edges_and_counts_that_do_not_fit_are_a_mistake_of_the_caller(edges: list[float], counts: list[float]) -> None:
    with pytest.raises(ValueError, match="edges, not"):
        histogram(edges, counts, "tokens")


@steady
@given(st.lists(NUMBER, min_size=2, max_size=20, unique=True).map(sorted), st.data())
def test_all_is_drawn_inside_of_the_chart(edges: list[float], data: st.DataObject) -> None:
    counts = data.draw(st.lists(NUMBER, min_size=len(edges) - 1, max_size=len(edges) - 1))
    marks = data.draw(st.lists(st.tuples(st.text(max_size=9), NUMBER), max_size=4))
    root = parse(histogram(edges, counts, "tokens", marks))
    lines = {"values": list(zip(edges, counts, strict=False))}
    for drawn in [root, parse(line_chart(lines, "x", "y")), parse(bar_chart([("x", c) for c in counts], "n", "rows"))]:
        for svg in drawn.iter("svg"):
            _, _, width, height = map(float, svg.attrib["viewBox"].split())
            for node in svg.iter():
                assert 0 <= float(node.attrib.get("x", 0)) <= width
                assert 0 <= float(node.attrib.get("y", 0)) <= height
                assert float(node.attrib.get("width", 0)) >= 0
                assert float(node.attrib.get("height", 0)) >= 0
                for point in node.attrib.get("points", "").split():
                    x, y = map(float, point.split(","))
                    assert 0 <= x <= width
                    assert 0 <= y <= height
