"""The space of a search, the points drawn from it, and the record of its trials; no Ray."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf.config import Config
from rayclf.config_file import load_config
from rayclf.errors import ConfigError, LabelError, OutputError, RayclfError
from rayclf.storage import write_json
from rayclf.training.place import check_place
from rayclf.training.run import Run
from rayclf.training.search.record import SEARCH, Board, Search, Trial, ranked, render
from rayclf.training.search.space import (
    EPOCHS,
    RANK,
    RATE,
    Choice,
    Domain,
    Integers,
    Range,
    check_adapters,
    default_space,
    draw,
    read_space,
    with_values,
)
from rayclf.training.search.tune import _nothing, tune

DEFAULTS = Config()


def read(*texts: str, tuning: str = "lora") -> dict[str, Domain]:
    space = read_space(texts, DEFAULTS)
    check_adapters(space, tuning)
    return space


def test_a_range_a_list_and_whole_numbers() -> None:
    space = read("train.learning_rate=1e-5..1e-3", "model.lora.r=4, 8,16", "train.epochs=1..4")
    assert space == {RATE: Range(1e-5, 1e-3), RANK: Choice((4, 8, 16)), EPOCHS: Integers(1, 4)}


def test_values_are_those_that_the_configuration_would_take() -> None:
    assert read("train.learning_rate=2e-5,1") == {RATE: Choice((2e-5, 1.0))}
    assert read("train.micro_batch_tokens=64,null") == {"train.micro_batch_tokens": Choice((64, None))}
    assert read("model.backbone=../a,../b") == {"model.backbone": Choice(("../a", "../b"))}
    assert read("model.lora.alpha=8..64") == {"model.lora.alpha": Range(8, 64)}
    assert read("model.lora.dora=true,false") == {"model.lora.dora": Choice((True, False))}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train.learning_rate", r"section\.field=low\.\.high"),
        ("=1..2", r"section\.field"),
        ("train.epoch=1..4", r"unknown key 'train\.epoch'; did you mean 'epochs'"),
        ("trian.epochs=1,2", "did you mean 'train'"),
        ("train=1,2", "train"),
        ("train.epochs=0..4", r"train\.epochs.*greater than or equal to 1"),
        ("train.epochs=1..2.5", "two whole numbers"),
        ("train.epochs=4..1", r"range of train\.epochs must begin below"),
        ("train.epochs=1..", "two whole numbers"),
        ("train.learning_rate=0..1", r"train\.learning_rate.*greater than 0"),
        ("train.learning_rate=1e-5..inf", r"train\.learning_rate.*finite"),
        ("train.learning_rate=nan..1", r"train\.learning_rate"),
        ("train.learning_rate=a..b", "two numbers"),
        ("train.strategy=ddp..single", r"train\.strategy"),
        ("train.epochs=2,2", "stands twice"),
        ("data.test=0.1,0.2", "data is the same for all trials"),
        ("train.metric=accuracy,log_loss", "judged by"),
    ],
)
def test_an_error_names_the_flag_and_the_field(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        read(text)
    assert str(caught.value).startswith(f"--search {text}: ")


def test_a_field_is_given_once_and_ranks_need_adapters() -> None:
    with pytest.raises(ConfigError, match="given twice"):
        read("train.epochs=1,2", "train.epochs=3,4")
    with pytest.raises(ConfigError, match=r"--search model\.lora.*model\.method=lora"):
        read("model.lora.r=4,8", tuning="full")
    assert read("model.lora.r=4,8", "model.method=full,lora", tuning="full")


def test_what_is_wrong_with_the_space_is_told_before_any_row_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--search train.epoch=1..4"):
        tune(tmp_path / "missing.csv", tmp_path / "found", search=["train.epoch=1..4"])


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_on_one_line(text: str) -> None:
    for given_text in (text, f"train.epochs={text}", f"train.learning_rate={text}", f"model.template={text}"):
        try:
            space = read(given_text)
        except ConfigError as error:
            assert "--search" in str(error)
            assert "\n" not in str(error)
        else:
            assert len(space) == 1


positive = st.floats(1e-9, 1e6)
RANGES = st.tuples(positive, positive).filter(lambda ends: ends[0] < ends[1]).map(lambda ends: Range(*ends))
WHOLE = st.tuples(st.integers(1, 50), st.integers(1, 50)).map(lambda ends: Integers(min(ends), sum(ends)))
CHOICES = st.lists(st.integers(1, 99), min_size=1, max_size=5, unique=True).map(lambda values: Choice(tuple(values)))


@given(RANGES)
def test_what_is_read_of_a_range_is_what_it_says(domain: Range) -> None:
    try:
        again = read(f"train.learning_rate={domain.low!r}..{domain.high!r}")[RATE]
    except ConfigError:
        pytest.fail("a positive range was refused")
    assert again == domain


@given(st.one_of(RANGES, WHOLE, CHOICES), st.floats(0, 1, exclude_max=True))
def test_every_value_lies_in_its_domain(domain: Domain, share: float) -> None:
    value = domain.at(share)
    assert value in domain.values if isinstance(domain, Choice) else domain.low <= value <= domain.high
    assert type(value) is int or isinstance(domain, Range)


@given(
    st.dictionaries(st.sampled_from("abc"), st.one_of(RANGES, WHOLE, CHOICES), min_size=1),
    st.integers(1, 20),
    st.integers(0, 99),
)
def test_points_differ_begin_with_the_first_and_follow_the_seed(
    space: dict[str, Domain], count: int, seed: int
) -> None:
    first = dict.fromkeys(space, -1)
    points = draw(space, first, count, seed)
    assert points[0] == first
    assert 1 <= len(points) <= count
    assert all(point not in points[:position] for position, point in enumerate(points))
    assert points == draw(space, first, count, seed)


def test_trials_spread_over_the_whole_range() -> None:
    points = draw({RATE: Range(1e-5, 1e-1)}, {RATE: 1e-4}, 9, seed=3)
    decades = sorted(2 * (math.log10(point[RATE]) + 5) for point in points[1:])
    assert all(math.floor(decade + 0.02) == part for part, decade in enumerate(decades))  # one in each half decade


def test_a_small_space_is_drawn_whole_and_no_more() -> None:
    points = draw({RANK: Choice((4, 8)), EPOCHS: Integers(1, 2)}, {RANK: 4, EPOCHS: 1}, 20, seed=1)
    assert sorted((p[RANK], p[EPOCHS]) for p in points) == [(4, 1), (4, 2), (8, 1), (8, 2)]


def test_defaults_lie_around_the_default_settings() -> None:
    space = default_space(DEFAULTS, 1e-4, "full")
    assert list(space) == [RATE, EPOCHS]  # no rank without adapters
    assert str(space[RATE]) == "2e-05..0.0005"
    assert space[EPOCHS] == Choice((2, 3, 6))
    assert RANK in default_space(DEFAULTS, 1e-4, "qlora")
    assert RANK not in default_space(DEFAULTS, 1e-3, "head")
    assert default_space(load_config(None, {EPOCHS: 1}), 1e-4, "full")[EPOCHS] == Choice((1, 2))


def test_values_go_into_the_settings_and_leave_the_rest() -> None:
    settings = load_config(None, {"model.lora.alpha": 7, "train.seed": 3, "resources.workers": [1, 2]})
    changed = with_values(settings, {RANK: 5, RATE: 0.5})
    assert (changed.model.lora.r, changed.train.learning_rate) == (5, 0.5)
    assert with_values(changed, {RANK: 16, RATE: None}) == settings


# --- the record ------------------------------------------------------------------------------------------------------


def board(folder: Path, *, lower: bool = False, keep: bool = False) -> Board:
    trials = [Trial(str(number), {RATE: 10.0**-number}) for number in range(4)]
    made = Board(folder, {"data": "x.csv", "space": {RATE: "1e-5..1"}}, "f1_macro", lower, trials, keep)
    for trial in trials:
        run = made.place(trial)
        for name in ("artifact", "checkpoints"):
            (run / name).mkdir(parents=True)
            (run / name / "weights").write_text("heavy")
        write_json(run / "status.json", {"state": "running"})
    made.write()
    return made


def kept(folder: Path) -> list[str]:
    return sorted(path.parent.name for path in folder.rglob("artifact"))


def test_the_best_finished_trial_wins_and_the_losers_lose_their_weights(tmp_path: Path) -> None:
    made = board(tmp_path)
    made.update(0, state="running", curve=((5, 0.4), (10, 0.6), (15, 0.5)))
    assert made.end(0, "done").score == 0.6
    made.update(1, curve=((5, 0.9),))
    made.end(1, "stopped")  # better, but there is no artifact of it
    assert (made.winner, kept(tmp_path)) == ("0", ["0", "2", "3"])
    made.update(2, curve=((5, 0.7),))
    made.end(2, "done")
    assert (made.winner, kept(tmp_path)) == ("2", ["2", "3"])  # 3 may still be at work
    made.end(3, "failed", "DataError: broken")
    found = made.finish("done")
    assert kept(tmp_path) == ["best"]
    assert found.winner.values == {RATE: 0.01}
    assert found.artifact == tmp_path / "best" / "artifact"
    assert [trial.state for trial in found.trials] == ["done", "stopped", "done", "failed"]
    assert found.trials[0].curve == ((5, 0.4), (10, 0.6), (15, 0.5))
    assert Run(tmp_path / "trials" / "1").status["state"] == "stopped"  # its folder says that nobody works on it


def test_a_smaller_loss_wins_and_the_earlier_of_equals(tmp_path: Path) -> None:
    made = board(tmp_path, lower=True)
    for number, value in enumerate((0.5, 0.3, 0.3, 0.9)):
        made.update(number, curve=((5, value),))
        made.end(number, "done")
    assert made.winner == "1"
    assert [trial.id for trial in ranked(made.trials, lower=True)] == ["1", "2", "0", "3"]


def test_all_weights_are_kept_on_request(tmp_path: Path) -> None:
    made = board(tmp_path, keep=True)
    made.end(0, "done")
    made.end(1, "failed", "X: y")
    assert kept(tmp_path) == ["0", "1", "2", "3"]


def test_the_page_has_a_line_and_a_row_for_each_trial(tmp_path: Path) -> None:
    made = board(tmp_path)
    made.update(0, curve=((5, 0.4), (10, 0.6)))
    made.end(0, "done", seconds=3.0)
    made.end(1, "failed", "DataError: <broken>")
    found = made.finish("done")
    text = (tmp_path / "tune.html").read_text()
    assert text == render(found)
    assert text.count("<polyline") == 1
    assert text.count("<tr>") == 5
    assert "<td>0.001</td>" in text  # a rate as it would be typed
    assert "<td>3</td>" in text
    assert "DataError: &lt;broken&gt;" in text
    assert "http" not in text.replace("http://www.w3.org", "")


def test_the_record_is_json_that_another_process_can_read(tmp_path: Path) -> None:
    made = board(tmp_path)
    made.update(0, curve=((5, 0.25),))
    record = json.loads((tmp_path / "tune.json").read_text())
    assert record["state"] == "running"
    assert record["trials"][0]["curve"] == [[5, 0.25]]
    assert Search(tmp_path).trials == made.trials


def test_another_place_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not a search"):
        check_place(tmp_path, True, kind=SEARCH)
    with pytest.raises(OutputError, match="is a file"):
        check_place(tmp_path / "notes.txt", True, kind=SEARCH)
    (tmp_path / "tune.json").write_text("{}")
    with pytest.raises(OutputError, match="--overwrite"):
        check_place(tmp_path, False, kind=SEARCH)
    assert check_place(tmp_path, True, kind=SEARCH) == tmp_path


def test_without_a_winner_the_first_failure_is_told_in_its_own_kind(tmp_path: Path) -> None:
    made = board(tmp_path)
    made.end(1, "failed", "LabelError: questions.csv: no label")
    error = _nothing(made, "done", None)
    assert isinstance(error, LabelError)
    assert "no trial finished" in str(error)
    assert "questions.csv: no label" in str(error)
    assert isinstance(_nothing(made, "stopped", None), KeyboardInterrupt)
    late = _nothing(board(tmp_path / "other"), "done", 0.5)
    assert isinstance(late, RayclfError)
    assert "--minutes 0.5" in str(late)
