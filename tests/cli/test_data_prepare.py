"""``rayclf data prepare``: asks only what it cannot know, and prints the command that asks nothing."""
# tests are told by their names

import json
import shlex

import pytest
from typer.testing import CliRunner

from rayclf.cli import data_prepare
from rayclf.cli.main import app
from rayclf.data.dataset import Dataset
from rayclf.errors import AmbiguousColumn, ConfigError, DataError

TWO_TEXTS = "text,content,kind\n" + "".join(f"words of {i},others of {i},{'xy'[i % 2]}\n" for i in range(40))


@pytest.fixture
def file(tmp_path):
    rows = [{"body": f"some words about {i}", "topic": ["a;b", "a", "b", "c;a"][i % 4], "n": i} for i in range(80)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "x.jsonl"


def run(*words, answers=None, monkeypatch=None):
    if answers is not None:
        monkeypatch.setattr(data_prepare, "_has_terminal", lambda: True)
    result = CliRunner().invoke(app, ["data", "prepare", *map(str, words)], input=answers)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def again(output):
    (line,) = [line for line in output.splitlines() if line.startswith("again")]
    return shlex.split(line)[1:]


def test_defaults(file, tmp_path):
    result = run(file, "-o", tmp_path / "out", "--yes")
    assert result.exit_code == 0, result.output
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.space.names == ("a", "b", "c")  # parted by ';', which was seen
    assert set(dataset.rows) == {"train", "validation", "test"}
    assert "quarantined" in result.output


def test_the_printed_command_does_the_same_without_asking(file, tmp_path):
    first = run(
        file,
        "-o",
        tmp_path / "out",
        "--yes",
        "--seed",
        "5",
        "--test-share",
        "0.2",
        "--rebalance",
        '{"a": 0.6, "b": 0.5}',
    )
    words = again(first.output)
    assert words[:3] == ["rayclf", "data", "prepare"]
    assert "--yes" not in words
    assert CliRunner().invoke(app, words[1:]).exit_code == 0  # as it stands, over what it wrote
    words[words.index("-o") + 1] = str(tmp_path / "again")
    second = CliRunner().invoke(app, words[1:])
    assert second.exit_code == 0, second.output
    records = [Dataset.open(tmp_path / name).record for name in ("out", "again")]
    assert records[0].content_sha256 == records[1].content_sha256
    assert records[0].seed == 5
    assert again(second.output)[5:] == words[5:]


def test_without_a_terminal_a_missing_answer_names_its_flag(file, tmp_path):
    with pytest.raises(ConfigError, match=r"--separator: not given, and there is no terminal to ask on"):
        run(file, "-o", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--test-share: not given"):
        run(file, "-o", tmp_path / "out", "--separator", ";")
    flags = ("--separator", ";", "--test-share", "0.1", "--validation-share", "0.1")
    with pytest.raises(ConfigError, match=r"--shuffle: not given"):
        run(file, "-o", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
    assert run(file, "-o", tmp_path / "out", *flags, "--no-shuffle").exit_code == 0


def test_ambiguous_columns_need_an_answer_even_with_yes(tmp_path):
    (tmp_path / "x.csv").write_text(TWO_TEXTS)
    with pytest.raises(AmbiguousColumn, match="--text"):
        run(tmp_path / "x.csv", "-o", tmp_path / "out", "--yes")


def test_answers_on_a_terminal(file, tmp_path, monkeypatch):
    # part by ';'? no. hold out? yes. shares. mix? no. write? yes
    answers = "n\ny\n0.25\n0\nn\ny\n"
    result = run(file, "-o", tmp_path / "out", answers=answers, monkeypatch=monkeypatch)
    assert result.exit_code == 0, result.output
    dataset = Dataset.open(tmp_path / "out")
    assert dataset.space.names == ("a", "a;b", "b", "c;a")
    assert set(dataset.rows) == {"train", "test"}
    assert "some words about 0" in result.output  # the preview
    words = again(result.output)
    assert "--no-shuffle" in words
    assert words[words.index("--test-share") + 1] == "0.25"


def test_saying_no_writes_nothing(file, tmp_path, monkeypatch):
    result = run(file, "-o", tmp_path / "out", answers="y\nn\ny\nn\n", monkeypatch=monkeypatch)
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_asked_which_column(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_text(TWO_TEXTS)
    result = run(tmp_path / "x.csv", "-o", tmp_path / "out", answers="content\nn\ny\ny\n", monkeypatch=monkeypatch)
    assert result.exit_code == 0, result.output
    assert Dataset.open(tmp_path / "out").record.reads.text == "content"


def test_json(file, tmp_path):
    result = run(file, "-o", tmp_path / "out", "--yes", "--json")
    assert json.loads(result.stdout)["read"] == 80


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        run(tmp_path / "x.csv", "-o", tmp_path / "out")
    with pytest.raises(DataError, match="matches"):
        run(tmp_path / "*.csv", "-o", tmp_path / "out", "--yes")
