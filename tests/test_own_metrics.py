"""Own metrics: found by either form, the same after travelling, and never a traceback or a text for a mistake."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rayclf.own_metric_state
import rayclf.own_metrics
from rayclf.errors import ConfigError
from rayclf.labels import LabelSpace, ProblemType
from rayclf.own_metric_state import OwnMetricState, check_room
from rayclf.own_metrics import check_choice, find_choice, load_metric, load_metrics

NAN = math.nan
SPACE = LabelSpace(("cat", "dog"), ProblemType.MULTILABEL)
IDS, TEXTS = ["r1", "r2", "r3"], ["first text", ("second", "pair"), "third text"]
TARGETS = np.array([[1, 0], [NAN, 1], [NAN, NAN]], np.float32)
PROBABILITIES = np.array([[0.75, 0.5], [0.25, 0.5], [0.5, 0.5]], np.float32)
steady = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])

SOURCE = """
    from dataclasses import dataclass
    import numpy as np

    @dataclass
    class Cost:
        value: float

    def seen(input_text, expected, predicted):
        SEEN.append((input_text, dict(expected), dict(predicted)))
        expected.clear(), predicted.clear()
        return 0.5

    def length(input_text, expected, predicted):
        return Cost(len(input_text)).value

    length.lower_is_better = True

    def known(input_text, expected, predicted, weight=2.0):
        return weight * len(expected) if expected else float("nan")

    def shapes(expected, probabilities):
        expected[:] = 0
        return {"rows": len(expected), "mean": probabilities.mean(), "unknown": np.float32("nan")}

    def unknowns(expected, probabilities):
        return np.isnan(expected).sum()

    SEEN = []
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of metrics."""
    return write(tmp_path, SOURCE)


def write(folder: Path, source: str) -> Path:
    place = folder / "my_metrics.py"
    place.write_text(textwrap.dedent(source))
    return place


def computed(metrics: list[rayclf.own_metrics.OwnMetric]) -> dict[str, float]:
    state = OwnMetricState(metrics, SPACE)
    state.update(IDS, TEXTS, TARGETS, PROBABILITIES)
    return state.compute()


def test_the_row_form_is_averaged_and_nan_rows_do_not_count(file: Path) -> None:
    assert computed([load_metric(f"{file}:length")]) == {"length": (10 + len("second\npair") + 10) / 3}
    assert computed([load_metric(f"{file}:known")]) == {"known": (4 + 2) / 2}


def test_what_the_row_form_is_given(file: Path) -> None:
    metric = load_metric(f"{file}:seen")
    computed([metric, load_metric(f"{file}:known")])
    seen = metric.function.__globals__["SEEN"]
    assert [text for text, _, _ in seen] == ["first text", "second\npair", "third text"]
    assert [expected for _, expected, _ in seen] == [{"cat": 1.0, "dog": 0.0}, {"dog": 1.0}, {}]
    assert seen[0][2] == {"cat": 0.75, "dog": 0.5}
    assert {type(value) for value in (*seen[0][1].values(), *seen[0][2].values())} == {float}


def test_one_metric_cannot_spoil_the_arguments_of_another(file: Path) -> None:
    spoiling, honest = load_metric(f"{file}:seen"), load_metric(f"{file}:known")
    assert computed([spoiling, honest])["known"] == 3
    arrays = [load_metric(f"{file}:shapes"), load_metric(f"{file}:unknowns")]
    assert computed(arrays)["unknowns"] == 3


def test_the_array_form_names_the_values_of_a_dict(file: Path) -> None:
    result = computed([load_metric(f"{file}:shapes")])
    assert list(result) == ["shapes.rows", "shapes.mean", "shapes.unknown"]
    assert result["shapes.rows"] == 3
    assert result["shapes.mean"] == pytest.approx(0.5)
    assert math.isnan(result["shapes.unknown"])
    assert all(type(value) is float for value in result.values())


def test_no_rows_give_nan(file: Path) -> None:
    metrics = [load_metric(f"{file}:{name}") for name in ("length", "shapes")]
    assert all(math.isnan(value) for value in OwnMetricState(metrics, SPACE).compute().values())


@steady
@given(data=st.data(), cuts=st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_workers_that_merge_agree_with_one(file: Path, data: st.DataObject, cuts: list[int]) -> None:
    rows = 12
    numbers = st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=2 * rows, max_size=2 * rows)
    targets = np.array(data.draw(numbers), np.float32).reshape(rows, 2)
    chances = np.linspace(0, 1, 2 * rows, dtype=np.float32).reshape(rows, 2)
    texts = ["x" * (position % 5 + 1) for position in range(rows)]
    metrics = [load_metric(f"{file}:{name}") for name in ("length", "known", "shapes", "unknowns")]
    whole = OwnMetricState(metrics, SPACE)
    whole.update(list(map(str, range(rows))), texts, targets, chances)
    merged = OwnMetricState(metrics, SPACE)
    edges = [0, *sorted(cuts), rows]
    for start, end in itertools.pairwise(edges):
        worker = pickle.loads(pickle.dumps(OwnMetricState(metrics, SPACE)))
        worker.update(list(map(str, range(start, end))), texts[start:end], targets[start:end], chances[start:end])
        merged.merge(pickle.loads(pickle.dumps(worker)))
    assert merged.compute() == pytest.approx(whole.compute(), nan_ok=True)
    assert merged.rows == rows


def test_a_metric_travels_as_source_to_where_the_file_is_not(file: Path, tmp_path: Path) -> None:
    (tmp_path / "metric.pickle").write_bytes(pickle.dumps([load_metric(f"{file}:{n}") for n in ("length", "unknowns")]))
    file.unlink()
    code = (
        "import pickle, sys, numpy as np\n"
        "a, b = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print(a.row('r', 'four', {}, {}), b.array(np.full((2, 2), np.nan), np.zeros((2, 2))), a.lower_is_better)"
    )
    command = [sys.executable, "-c", code, tmp_path / "metric.pickle"]
    environment = os.environ | {"PYTHONPATH": str(Path(rayclf.own_metrics.__file__).parents[1])}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert told == "4.0 {'unknowns': 4.0} True\n"


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    first = load_metric(f"{write(tmp_path, 'def f(a, b): return 1')}:f")
    second = load_metric(f"{write(tmp_path, 'def f(a, b): return 2')}:f")
    assert (computed([first]), computed([second])) == ({"f": 1}, {"f": 2})


def test_a_metric_of_an_installed_module() -> None:
    metric = load_metric("rayclf.sample_metrics:binary_match")
    assert (metric.source, metric.form, metric.lower_is_better) == (None, "row", False)
    assert computed([metric])["binary_match"] == pytest.approx((1 - (0.25 + 0.5) / 2 + 0.5) / 2)
    assert load_metric("sklearn.metrics:coverage_error").form == "array"


@pytest.mark.parametrize(
    ("source", "name", "told"),
    [
        ("def recall(a, b): ...", "recal", "no such function in it; did you mean recall?"),
        ("x = 1", "nothing", "no such function in it"),
        ("def f(a): ...", "f", "it needs 1 positional and 0 keyword arguments"),
        ("def f(a, b, c, d): ...", "f", "it needs 4 positional and 0 keyword arguments"),
        ("def f(*rows): ...", "f", "it needs 0 positional and 0 keyword arguments"),
        ("def f(a, b, *, k): ...", "f", "it needs 2 positional and 1 keyword arguments"),
        ("f = 3", "f", "is not a function whose parameters can be told"),
        ("def f(a, b:\n", "f", "line 1; mend the file"),
        ("import no_such_module\ndef f(a, b): ...", "f", "No module named 'no_such_module' at line 1"),
        ("1 / 0", "f", "ZeroDivisionError: division by zero at line 1"),
        ("raise SystemExit(3)", "f", "loading it raised SystemExit: 3 at line 1"),
        ("def accuracy(a, b): ...", "accuracy", "rayclf has a metric or field accuracy of its own"),
        ("def step(a, b): ...", "step", "rename the function"),
    ],
)
def test_code_that_cannot_be_a_metric(tmp_path: Path, source: str, name: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_metric(f"{write(tmp_path, source)}:{name}")
    assert told in str(error.value)
    assert str(error.value).startswith(f"metric {tmp_path}/my_metrics.py:{name}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("nowhere.py:f", "no such file nowhere.py"),
        ("my_metrics.py", "must be file.py:function"),
        (":f", "must be file.py:function"),
        ("my_metrics.py:", "must be file.py:function"),
        ("my_metrics.py:a b", "must be file.py:function"),
        ("my_metrics_:f", "no module my_metrics_; a file's name must end in .py"),
        ("rayclf.nowhere:f", "no module rayclf.nowhere; install it here and on every worker"),
        ("..x:f", "loading it raised"),
        ("./:f", "cannot read ./: Is a directory"),
    ],
)
def test_a_place_that_is_not_there(spec: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_metric(spec)
    assert told in str(error.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        load_metric(f"{tmp_path / 'm.py'}:f")


def test_a_row_that_fails_is_named_and_its_text_is_not_told(tmp_path: Path) -> None:
    file = write(tmp_path, "def f(text, expected, predicted):\n    return float(text)\n")
    with pytest.raises(ConfigError) as error:
        computed([load_metric(f"{file}:f")])
    assert str(error.value) == f"metric {file}:f: raised ValueError at line 2 on row r1"
    assert error.value.__suppress_context__


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("def f(t, e, p): return 'text'", "returned str, not a number, on row r1"),
        ("def f(t, e, p): pass", "returned NoneType, not a number, on row r1"),
        ("def f(t, e, p): return float('inf')", "returned inf on row r1"),
        ("def f(e, p): return {1: 2}", "returned a dict whose keys are not all strings over 3 rows"),
        ("def f(e, p): return {'a': [1]}", "returned list, not a number, as 'a' over 3 rows"),
        ("def f(e, p): return {'a': -float('inf')}", "returned -inf as 'a' over 3 rows"),
        ("def f(e, p): return e", "returned ndarray, not a number, over 3 rows"),
        ("def f(e, p): raise SystemExit(3)", "raised SystemExit: 3 at line 1 over 3 rows"),
        ("def f(e, p): raise KeyError('k')", "raised KeyError: 'k' at line 1 over 3 rows"),
    ],
)
def test_a_result_that_is_no_number(tmp_path: Path, body: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        computed([load_metric(f"{write(tmp_path, body)}:f")])
    assert told in str(error.value)


def test_two_metrics_of_one_name(tmp_path: Path, file: Path) -> None:
    other = tmp_path / "other.py"
    other.write_text("def length(a, b): return 1")
    with pytest.raises(ConfigError, match="have the same name; rename one function"):
        load_metrics([f"{file}:length", f"{other}:length"])
    assert [metric.name for metric in load_metrics([f"{file}:known", f"{file}:length", f"{file}:known"])] == [
        "known",
        "length",
    ]


def test_too_many_numbers_for_the_array_form_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array, row = load_metric(f"{file}:unknowns"), load_metric(f"{file}:length")
    check_room([row], 10**9, 10**6)
    check_room([array], 50_000, 1000)
    with pytest.raises(ConfigError, match=r"50001 rows × 1000 labels are more than 50 million numbers; write it in"):
        check_room([array], 50_001, 1000)
    monkeypatch.setattr(rayclf.own_metric_state, "MOST_NUMBERS", 11)
    one, other = OwnMetricState([array], SPACE), OwnMetricState([array], SPACE)
    for state in (one, other):
        state.update(IDS, TEXTS, TARGETS, PROBABILITIES)
    with pytest.raises(ConfigError, match="6 rows × 2 labels"):
        one.merge(other)


def test_own_metrics_can_choose_the_best_checkpoint(file: Path) -> None:
    metrics = load_metrics([f"{file}:length", f"{file}:shapes"])
    for choice in ("f1_macro", "length", "shapes", "shapes.mean"):
        check_choice(choice, metrics)
    assert find_choice("f1_macro", metrics) is None
    assert find_choice("length", metrics).lower_is_better  # type: ignore[union-attr]
    assert not find_choice("shapes.mean", metrics).lower_is_better  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="train.metric: there is no metric lenght; did you mean length?"):
        check_choice("lenght", metrics)
    with pytest.raises(ConfigError, match="there is no metric length.x"):
        check_choice("length.x", metrics)
    with pytest.raises(ConfigError, match="must be one of accuracy, "):
        check_choice("qqqq", metrics)


def test_the_examples_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "how-to" / "own-metrics.md").read_text()
    file = write(tmp_path, "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    metrics = load_metrics([f"{file}:cost", f"{file}:recall_at_two"])
    assert [(metric.form, metric.lower_is_better) for metric in metrics] == [("row", True), ("array", False)]
    assert computed(list(metrics)) == pytest.approx({"cost": (0.25 + 0.5 + 0) / 3, "recall_at_two.mean": 2 / 3})
