"""The report: all of a run on one page that is safe to open whatever the labels are called."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fake_run import evaluation, make_run, measure

from rayclf.charts import LineChart
from rayclf.labels import LabelSpace, ProblemType
from rayclf.training.report import page as report
from rayclf.training.report.page import Record, file_names, render, sections, write_report

NAMES = ("<script>alert(1)</script>", "b & c", "配送の遅れ", "$x$", "_hidden")
SPACE = LabelSpace(NAMES, ProblemType.MULTICLASS)
INFO = {"label_space": SPACE.to_json(), "tuning": "full", "created": "now", "metrics": {}}


def parse(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(page)


def headings(page: str) -> list[str | None]:
    return [node.text for node in parse(page).iter("h2")]


def captions(page: str) -> list[str | None]:
    return [node.text for node in parse(page).iter("figcaption")]


def test_a_whole_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NAMES)
    write_report(run)
    page = (run.folder / "report.html").read_text()
    root = parse(page)
    assert page == render(Record.read(run))
    assert root.findtext("body/h1") == "sentence-transformers/all-MiniLM-L6-v2 on questions.csv"
    assert headings(page) == [
        "Training", "Validation rows while training", "Metrics", "Labels, test", "Confusions, test", "Curves",
        "Worst mistakes",
    ]  # fmt: skip
    assert captions(page) == [
        "Loss", "Learning rate", "Gradient norm", "Metrics", "Metric match of both", "Labels, F1", "Confusion matrix",
        "ROC curves", "Precision-recall curves", "Calibration", "F1 by threshold",
    ]  # fmt: skip
    assert not {"script", "link", "img"} & {node.tag for node in root.iter()}
    assert not re.search(r"https?:|url\(|@import|href|src=", page)
    pictures = {file.name: file.read_bytes() for file in (run.folder / "charts").iterdir()}
    assert len(pictures) == len(captions(page))
    assert {"loss.png", "roc-curves.png", "confusion-matrix.png", "metric-match-of-both.png"} < set(pictures)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert [file.name for file in run.folder.iterdir() if file.name.endswith(".tmp")] == []


def test_a_report_replaces_an_earlier_one_or_leaves_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", ("a", "b"))
    (run.folder / "charts").mkdir()
    (run.folder / "charts" / "old.png").write_text("old")
    (run.folder / "report.html").write_text("old")

    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    with monkeypatch.context() as broken:
        broken.setattr(report, "write_png", fail)
        with pytest.raises(RuntimeError):
            write_report(run)
    assert (run.folder / "report.html").read_text() == "old"
    monkeypatch.setattr(report, "write_png", lambda chart, file: file.write(b"new"))
    write_report(run)
    names = [file.name for file in (run.folder / "charts").iterdir()]
    assert "old.png" not in names
    assert "loss.png" in names
    assert parse((run.folder / "report.html").read_text()).tag == "html"


def test_only_two_files_are_needed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", NAMES)
    for name in ("status.json", "config.yaml", "curves.json", "mistakes.json"):
        (run.folder / name).unlink()
    page = render(Record.read(run))
    assert headings(page)[-1] == "Confusions, test"
    assert parse(page).findtext("body/h1") == "a classifier on its data"
    assert headings(render(Record([], INFO))) == ["Training", "Metrics"]
    (run.folder / "metrics.jsonl").unlink()
    assert "no training step is on record" in render(Record.read(run))


@pytest.mark.parametrize(
    ("names", "problem_type", "matrix"),
    [
        (("spam",), ProblemType.BINARY, True),
        (NAMES, ProblemType.MULTILABEL, False),
        (tuple(f"label {n}" for n in range(21)), ProblemType.MULTICLASS, False),
    ],
)
def test_other_tasks(tmp_path: Path, names: tuple[str, ...], problem_type: ProblemType, matrix: bool) -> None:
    page = render(Record.read(make_run(tmp_path / "run", names, problem_type)))
    assert ("Confusion matrix" in captions(page)) is matrix
    assert ({"Labels by F1", "Hardest labels, F1"} <= set(captions(page))) is (len(names) == 21)
    assert ("the first 8 of 21 labels" in page) is (len(names) == 21)


def test_very_many_labels() -> None:
    space = LabelSpace(tuple(f"label {n}" for n in range(25_000)), ProblemType.MULTICLASS)
    row = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "roc_auc": None, "support": 2}
    metrics = {"rows": 9, "accuracy": 0.5, "f1_macro": 0.5, "log_loss": None, "confusions": []}
    metrics["per_label"] = [{"label": name, **row} for name in space.names]
    curves = {"roc": [{"label": name, "points": [[0, 0], [1, 1]]} for name in space.names]}
    info = INFO | {"label_space": space.to_json(), "metrics": {"test": metrics}}
    page = render(Record([evaluation(3, "test", metrics)], info, curves=curves))
    parse(page)
    assert "25,000, multiclass" in page
    assert "the first 200 of 25,000 labels" in page
    assert len(page) < 100_000


def test_nothing_that_is_known_is_no_number() -> None:
    events = [
        {"kind": "step", "step": 1, "epoch": 1, "loss": None, "learning_rate": 0.0, "grad_norm": float("nan")},
        evaluation(1, "validation", {"accuracy": None, "f1_macro": None, "log_loss": None, "per_label": []}),
    ]
    curves = {
        "roc": [{"label": "a", "points": []}, {"label": "b", "points": [[0.5, None]]}],
        "thresholds": [
            {"label": "a", "chosen": None, "points": [[0.5, 0.5]]},
            {"label": "b", "chosen": 1, "points": []},
        ],
        "reliability": [[0.5, None, 0]],
        "reliability_before": [],
    }
    page = render(Record(events, INFO, curves=curves, mistakes=[{"id": 3}]))
    assert captions(page) == ["Learning rate", "F1 by threshold"]
    assert "nan" not in page.lower()


def test_texts_are_shown_where_the_run_kept_them() -> None:
    one = {"id": "x.csv:1", "expected": ["b & c"], "predicted": [], "score": 0.97}
    told = render(Record([], INFO, mistakes=[one]))
    assert "output.texts" in told
    cells = [node.text for node in parse(told).iter("td")]
    assert cells[-4:] == ["x.csv:1", "b & c", "none", "0.9700"]
    told = render(Record([], INFO, mistakes=[one, one | {"text": "<b>too late</b>"}, one | {"text": "y" * 5000}]))
    assert "output.texts" not in told
    cells = [node.text for node in parse(told).iter("td")]
    assert cells[-6] == "<b>too late</b>"
    assert cells[-1] == "y" * 1000 + "…"


def test_files_of_charts_have_names_of_their_own() -> None:
    charts = [LineChart({}, "x", "y", name) for name in ("ROC curves", "Metric 正", "Metric 误", "../..", "正")]
    assert file_names(charts) == ["roc-curves", "metric", "metric-2", "chart", "chart-2"]


def test_a_chart_on_the_page_is_never_empty(tmp_path: Path) -> None:
    for one in sections(Record.read(make_run(tmp_path / "run", ("a", "b")))):
        assert isinstance(one, str) or not one.empty


def test_metrics_of_tomorrow_need_no_code() -> None:
    metrics = measure(SPACE, 1.0) | {"hover": 0.125, "precision_at_k": {"1": 0.5, "5": 0.25}, "own": {"mine": 7}}
    page = render(Record([], INFO | {"metrics": {"test": json.loads(json.dumps(metrics))}}))
    rows = {row[0].text: row[1].text for row in parse(page).iter("tr") if len(row) == 2}
    assert rows["hover"] == "0.1250"
    assert rows["precision at k 5"] == "0.2500"
    assert rows["mine"] == "7"
