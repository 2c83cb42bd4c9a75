"""When a deployment is open: weekly windows on the wall clock of a time zone.

It is open at an instant when the local clock then shows a time in one of the windows. Where the clocks change, that
means: a time that the clock leaps over opens nothing, a window that begins in the gap opens at its end, and an hour
that the clock shows twice is open, or closed, both times.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from rayclf.errors import ConfigError

EXAMPLE = "Mon-Fri 08:00-20:00 Europe/Berlin"
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FULL_NAMES = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_DAY, _WEEK = 24 * 60, 7 * 24 * 60  # minutes
_HOUR = timedelta(hours=1)
# A window can miss its day, where the clock leaps over it or the zone over the date (Samoa, 2011), but not for long.
_HORIZON = timedelta(days=31)
_RULE = re.compile(r"(?:([^\W\d][\w,-]*) )?(\d[\d:,-]*)(?: ([^\W\d]\S*))?")
_WINDOW = re.compile(r"(\d\d?):(\d\d)-(\d\d?):(\d\d)", re.ASCII)

Windows = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Schedule:
    """Weekly windows in a time zone; ``windows`` are [start, end) in minutes since Monday 00:00, apart and in order."""

    text: str
    zone: ZoneInfo
    windows: Windows

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read ``Mon-Fri 08:00-20:00 Europe/Berlin``, ``Mon,Wed 08:00-12:00,13:00-17:00; 10:00-14:00`` or ``always``.

        Days are a list of names and ranges, every day when left out. Times are HH:MM, with 24:00 for the end of a day;
        a window that ends before it starts goes over midnight and belongs to the day on which it starts. One IANA time
        zone holds for all and stands at the end: UTC when left out. Raises ConfigError that names ``--schedule``.
        """
        if text.strip().lower() == "always":
            return cls("always", _zone(text, "UTC"), ((0, _WEEK),))
        rules, zones = [], dict[str, None]()
        windows: list[tuple[int, int]] = []
        for part in text.split(";"):
            # "Mon, Wed 08:00 – 12:00" is as good as "Mon,Wed 08:00-12:00".
            rule = " ".join(re.sub(r"\s*([,–-])\s*", r"\1", part).replace("–", "-").split())
            match = _RULE.fullmatch(rule)
            if match is None:
                raise _wrong(text, f"'{rule}' is not days, times and a time zone")
            days, times, zone = match.groups()
            if zone:
                zones[zone] = None
            windows += [w for day in _days(text, days) for w in _windows(text, times, day)]
            rules.append(f"{days} {times}" if days else times)
        if len(zones) > 1:
            raise _wrong(text, f"{' and '.join(zones)} are two time zones; one holds for all windows")
        zone_info = _zone(text, next(iter(zones), "UTC"))
        return cls(f"{'; '.join(rules)} {zone_info.key}", zone_info, _merged(windows))

    def __str__(self) -> str:
        """What :meth:`parse` reads as this schedule, its time zone named."""
        return self.text

    @property
    def always(self) -> bool:
        """Whether it is never closed."""
        return self.windows == ((0, _WEEK),)

    def is_open(self, now: datetime) -> bool:
        """Whether it is open at ``now``; raises ValueError for a time without its time zone."""
        local = _aware(now).astimezone(self.zone)
        minute = local.weekday() * _DAY + local.hour * 60 + local.minute
        return any(start <= minute < end for start, end in self.windows)

    def next_change(self, now: datetime) -> datetime | None:
        """The first instant after ``now`` at which it opens or closes, in UTC; None when it is always open."""
        before = self.is_open(now)
        turns = () if self.always else self._turns(now.astimezone(UTC))
        return next((turn for turn in turns if self.is_open(turn) != before), None)

    def next_open(self, now: datetime) -> datetime:
        """``now`` when it is open, else the next instant at which it opens; in UTC."""
        change = None if self.is_open(now) else self.next_change(now)
        return change or now.astimezone(UTC)

    def spoken(self, moment: datetime) -> str:
        """An instant as people there say it: ``Mon 2026-03-30 08:00 Europe/Berlin``."""
        local = _aware(moment).astimezone(self.zone)
        return f"{_DAYS[local.weekday()]} {local:%Y-%m-%d %H:%M} {self.zone.key}"

    def _turns(self, after: datetime) -> Iterator[datetime]:
        """The instants after ``after`` at which it may open or close, in order: ends of windows, changes of the clock.

        It goes an hour at a time, in which a zone changes its clock once at most, and in UTC, since Python compares and
        subtracts times of one zone by what the clock shows.
        """
        start = after
        while start < after + _HORIZON:
            end = start + _HOUR
            before, later = self._offset(start), self._offset(end)
            turns = set(self._window_ends(start, before))
            if before != later:
                turns |= {self._clock_change(start, end), *self._window_ends(start, later)}
            yield from sorted(turns)
            start = end

    def _window_ends(self, start: datetime, offset: timedelta) -> Iterator[datetime]:
        """Where windows begin and end in the hour after ``start``, if the local clock is ``offset`` ahead of UTC."""
        local = start + offset
        monday = local.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=local.weekday())
        for minute in {minute for window in self.windows for minute in window}:
            for turn in (monday + timedelta(minutes=minute), monday + timedelta(minutes=minute + _WEEK)):
                if local < turn <= local + _HOUR:
                    yield turn - offset

    def _clock_change(self, low: datetime, high: datetime) -> datetime:
        """The second at which the offset changes, between two instants at which it differs."""
        low = low.replace(microsecond=0)  # clocks change at whole seconds
        high = high.replace(microsecond=0) + timedelta(seconds=1)
        old = self._offset(low)
        while high - low > timedelta(seconds=1):
            middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
            low, high = (middle, high) if self._offset(middle) == old else (low, middle)
        return high

    def _offset(self, moment: datetime) -> timedelta:
        return moment.astimezone(self.zone).utcoffset() or timedelta(0)


def _days(text: str, names: str | None) -> list[int]:
    """``Mon-Wed,Sat`` as days of the week from Monday; all without names. ``Fri-Mon`` goes over the end of the week."""
    days: list[int] = []
    for part in (names or "Mon-Sun").split(","):
        first, *last = [_day(text, name) for name in part.split("-", 1)]
        days += [(first + more) % 7 for more in range((last[0] - first) % 7 + 1 if last else 1)]
    return days


def _day(text: str, name: str) -> int:
    for day, full in enumerate(_FULL_NAMES):
        if name.lower() in (full, full[:3]):
            return day
    raise _wrong(text, f"'{name}' is not a day; days are {', '.join(_DAYS)}")


def _windows(text: str, times: str, day: int) -> Iterator[tuple[int, int]]:
    """The windows that start on one day, in minutes of the week; ends may lie in the next week."""
    for part in times.split(","):
        match = _WINDOW.fullmatch(part)
        if match is None:
            raise _wrong(text, f"'{part}' is not a window such as 08:00-20:00")
        hour, minute, end_hour, end_minute = map(int, match.groups())
        start, end = hour * 60 + minute, end_hour * 60 + end_minute
        if minute > 59 or end_minute > 59 or start >= _DAY or end > _DAY:
            raise _wrong(text, f"'{part}' has a time that no clock shows; times go from 00:00 to 24:00")
        if start == end:
            raise _wrong(text, f"'{part}' is empty; write 00:00-24:00 for a whole day")
        yield day * _DAY + start, day * _DAY + end + (_DAY if end < start else 0)


def _merged(windows: Iterable[tuple[int, int]]) -> Windows:
    """Windows in order, joined where they meet, and cut at the end of the week."""
    cut = [(start, min(end, _WEEK)) for start, end in windows]
    cut += [(0, end - _WEEK) for _, end in windows if end > _WEEK]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(cut):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return tuple(merged)


def _zone(text: str, name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # "../x" is a ValueError, "Europe" a folder
        known = zoneinfo.available_timezones()
    if not known:
        raise ConfigError("--schedule: this machine has no time zones; pip install tzdata")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "take an IANA name such as Europe/Berlin"
    raise _wrong(text, f"'{name}' is not a time zone; {hint}")


def _wrong(text: str, what: str) -> ConfigError:
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    return ConfigError(f"--schedule '{shown}': {what}; write for example '{EXAMPLE}' or 'always'")


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without its time zone")
    return moment
