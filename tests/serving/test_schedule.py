"""The schedule, against a walk over the minutes that asks the wall clock."""

from __future__ import annotations

import pickle
import zoneinfo
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rayclf.errors import ConfigError
from rayclf.serving.schedule import EXAMPLE, Schedule

BERLIN = "Mon-Fri 08:00-20:00 Europe/Berlin"
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
# Summer time north and south, half an hour of it, none of it, a date that never was (Apia, 2011-12-30).
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia", "UTC")
CHANGES = (
    "2026-03-29",
    "2026-10-25",
    "2026-03-08",
    "2026-11-01",
    "2026-04-05",
    "2026-10-04",
    "2011-12-30",
    "2024-02-29",
)


def at(text: str, zone: str = "Europe/Berlin") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "now", "open_"),
    [
        (BERLIN, "2026-11-20 08:00", True),
        (BERLIN, "2026-11-20 07:59:59.999999", False),
        (BERLIN, "2026-11-20 19:59:59.999999", True),
        (BERLIN, "2026-11-20 20:00", False),
        (BERLIN, "2026-11-21 12:00", False),  # a Saturday
        ("Mon,wednesday 08:00-12:00, 13:00 – 17:00 Europe/Berlin", "2026-11-18 12:30", False),
        ("Mon,wednesday 08:00-12:00, 13:00 – 17:00 Europe/Berlin", "2026-11-18 13:00", True),
        ("Fri-Mon 9:00-10:00 Europe/Berlin", "2026-11-22 09:30", True),
        ("Fri-Mon 9:00-10:00 Europe/Berlin", "2026-11-17 09:30", False),
        ("22:00-06:00 Europe/Berlin", "2026-11-20 05:59", True),
        ("Fri 22:00-06:00 Europe/Berlin", "2026-11-21 05:59", True),
        ("Fri 22:00-06:00 Europe/Berlin", "2026-11-20 05:59", False),
        ("Sun 22:00-06:00 Europe/Berlin", "2026-11-23 05:59", True),  # over the end of the week
        ("Sat 00:00-24:00 Europe/Berlin", "2026-11-21 23:59", True),
        ("Sat 00:00-24:00 Europe/Berlin", "2026-11-22 00:00", False),
        ("Mon-Fri 08:00-20:00; Sat 10:00-14:00 Europe/Berlin", "2026-11-21 11:00", True),
        ("Mon-Fri 08:00-20:00 Europe/Berlin; Sat 10:00-14:00", "2026-11-21 14:00", False),
        ("always", "2026-11-21 14:00", True),
    ],
)
def test_open_or_not(text: str, now: str, open_: bool) -> None:
    assert Schedule.parse(text).is_open(at(now)) is open_


def test_without_a_zone_it_is_utc() -> None:
    schedule = Schedule.parse("08:00-09:00")
    assert str(schedule) == "08:00-09:00 UTC"
    assert schedule.is_open(utc("2026-07-01 08:30"))


def test_the_weekend_is_over_on_monday() -> None:
    schedule = Schedule.parse(BERLIN)
    friday = at("2026-11-20 20:00")
    assert schedule.next_open(friday) == utc("2026-11-23 07:00")
    assert schedule.spoken(schedule.next_open(friday)) == "Mon 2026-11-23 08:00 Europe/Berlin"
    open_now = at("2026-11-20 12:00")
    assert schedule.next_open(open_now) == open_now
    assert schedule.next_change(open_now) == utc("2026-11-20 19:00")


def test_summer_time_moves_the_instant_and_not_the_clock() -> None:
    schedule = Schedule.parse(BERLIN)
    assert schedule.next_open(at("2026-03-27 21:00")) == utc("2026-03-30 06:00")
    assert schedule.next_open(at("2026-10-23 21:00")) == utc("2026-10-26 07:00")


def test_a_gap() -> None:
    """On 2026-03-29 the clock in Berlin goes from 02:00 to 03:00, at 01:00 UTC."""
    inside = Schedule.parse("Sun 02:10-02:50 Europe/Berlin")
    assert inside.next_open(at("2026-03-28 12:00")) == utc("2026-04-05 00:10")
    begins = Schedule.parse("Sun 02:30-05:00 Europe/Berlin")
    assert begins.next_open(at("2026-03-29 00:00")) == utc("2026-03-29 01:00")
    ends = Schedule.parse("Sun 01:30-02:30 Europe/Berlin")
    assert ends.next_change(at("2026-03-29 01:45")) == utc("2026-03-29 01:00")


@pytest.mark.parametrize("microseconds", [0, 1, 500_000, 999_999])
def test_a_gap_from_any_fraction_of_a_second(microseconds: int) -> None:
    now = utc("2026-03-29 00:59:58") + timedelta(microseconds=microseconds)
    assert Schedule.parse("Sun 02:30-05:00 Europe/Berlin").next_open(now) == utc("2026-03-29 01:00")


def test_an_hour_that_comes_twice() -> None:
    """On 2026-10-25 the clock in Berlin goes from 03:00 back to 02:00, at 01:00 UTC."""
    schedule = Schedule.parse("Sun 01:00-02:30 Europe/Berlin")
    changes, now = [], utc("2026-10-24 22:00")
    for _ in range(4):
        change = schedule.next_change(now)
        assert change is not None
        changes.append(f"{change:%H:%M}")
        now = change
    assert changes == ["23:00", "00:30", "01:00", "01:30"]


def test_always_never_changes() -> None:
    for text in ("always", " Always ", "00:00-24:00 Asia/Kolkata", "Mon-Fri 00:00-24:00; Sat,Sun 00:00-24:00"):
        schedule = Schedule.parse(text)
        assert schedule.always
        assert schedule.next_change(utc("2026-01-01")) is None
        assert schedule.next_open(utc("2026-01-01")) == utc("2026-01-01")


def test_it_travels_to_a_replica() -> None:
    schedule = Schedule.parse(BERLIN)
    assert pickle.loads(pickle.dumps(schedule)) == schedule


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "'' is not days, times and a time zone"),
        ("Mon-Fri", "'Mon-Fri' is not days, times and a time zone"),
        ("Mon 08:00-12:00;", "'' is not days, times and a time zone"),
        ("Mon 08:00-12:00 13:00-14:00", "'Mon 08:00-12:00 13:00-14:00' is not days, times and a time zone"),
        ("Mon-Fry 08:00-12:00", "'Fry' is not a day; days are Mon, Tue,"),
        ("Mon-Wed-Fri 08:00-12:00", "'Wed-Fri' is not a day"),
        ("Mon, 08:00-12:00", "'Mon,08:00-12:00' is not days"),
        ("08:00", "'08:00' is not a window such as 08:00-20:00"),
        ("0800-1200", "'0800-1200' is not a window"),
        ("08:00-25:00", "'08:00-25:00' has a time that no clock shows; times go from 00:00 to 24:00"),
        ("08:60-09:00", "'08:60-09:00' has a time that no clock shows"),
        ("24:00-06:00", "'24:00-06:00' has a time that no clock shows"),
        ("08:00-24:01", "'08:00-24:01' has a time that no clock shows"),
        ("08:00-08:00", "'08:00-08:00' is empty; write 00:00-24:00 for a whole day"),
        ("08:00-12:00 Europe/Berlim", "'Europe/Berlim' is not a time zone; did you mean Europe/Berlin?"),
        ("08:00-12:00 Q", "'Q' is not a time zone; take an IANA name such as Europe/Berlin"),
        ("08:00-12:00 Europe", "'Europe' is not a time zone"),
        ("08:00-12:00 a/../../etc/passwd", "is not a time zone"),
        ("08:00-12:00 UTC; 13:00-14:00 Asia/Tokyo", "UTC and Asia/Tokyo are two time zones"),
    ],
)
def test_what_is_wrong_is_told(text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Schedule.parse(text)
    assert what in str(caught.value)
    assert str(caught.value).startswith("--schedule '")
    assert EXAMPLE in str(caught.value)


def test_a_machine_without_time_zones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    with pytest.raises(ConfigError, match="pip install tzdata"):
        Schedule.parse("08:00-12:00 Europe/Nowhere")


def test_a_time_without_its_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Schedule.parse("always").is_open(datetime(2026, 1, 1))


@given(st.text(alphabet="MonSuFri 0123456789:-,;/UTCalwyse\u2013\u0661", max_size=40) | st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        schedule = Schedule.parse(text)
    except ConfigError:
        return
    assert Schedule.parse(str(schedule)) == schedule


@st.composite
def rules(draw: st.DrawFn) -> list[tuple[set[int], int, int]]:
    """Days, first and last minute of windows."""
    minutes = st.integers(0, 95).map(lambda quarter: 15 * quarter) | st.integers(0, 1439)
    window = st.tuples(st.sets(st.integers(0, 6), min_size=1), minutes, minutes | st.just(1440))
    return draw(st.lists(window.filter(lambda w: w[1] != w[2]), min_size=1, max_size=4))


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def shows(local: datetime, windows: list[tuple[set[int], int, int]]) -> bool:
    """Whether a wall clock that shows ``local`` is in a window: the rule, told as plainly as can be."""
    minute, day = local.hour * 60 + local.minute, local.weekday()
    for days, start, end in windows:
        if start < end and day in days and start <= minute < end:
            return True
        if start > end and ((day in days and minute >= start) or ((day - 1) % 7 in days and minute < end)):
            return True
    return False


@settings(max_examples=40, deadline=None)
@given(
    rules(),
    st.sampled_from(ZONES),
    st.sampled_from(CHANGES),
    st.integers(-36 * 60, 24 * 60),
    st.sampled_from([0.0, 0.5, 59.25]),
)
@example([({6}, 125, 165)], "Europe/Berlin", "2026-03-29", -1, 59.25)
@example([({6}, 125, 165)], "Europe/Berlin", "2026-03-29", -600, 0.0)
@example([({4}, 0, 1440)], "Pacific/Apia", "2011-12-30", -1500, 0.0)
@example([({6}, 90, 105)], "Australia/Lord_Howe", "2026-04-05", -900, 0.0)
def test_it_agrees_with_a_walk_over_the_minutes(
    windows: list[tuple[set[int], int, int]], zone: str, day: str, minutes: int, seconds: float
) -> None:
    text = ";".join(f"{','.join(DAYS[d] for d in days)} {clock(a)}-{clock(b)}" for days, a, b in windows)
    schedule = Schedule.parse(f"{text} {zone}")
    now = utc(day) + timedelta(minutes=minutes, seconds=seconds)
    before = schedule.is_open(now)
    assert before == shows(now.astimezone(ZoneInfo(zone)), windows)
    change = schedule.next_change(now)
    step = now.replace(second=0, microsecond=0)
    for _ in range(2 * 24 * 60):  # a minute at a time; zones of these years are whole minutes ahead of UTC
        step += timedelta(minutes=1)
        now_open = shows(step.astimezone(ZoneInfo(zone)), windows)
        assert schedule.is_open(step) == now_open
        if now_open != before:
            assert change == step
            assert schedule.next_open(now) == (now if before else step)
            return
    assert change is None or change > step
