"""How much one request and one key may ask for."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rayclf.errors import ConfigError
from rayclf.serving.api_errors import invalid, rate_limited

MOST_BODY_BYTES = 64_000_000  # whatever an endpoint allows: Ray Serve's proxies hold all of a body until it is read


class Limits(BaseModel):
    """What one request may cost; what is over it is refused before it costs anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: int = Field(10_000_000, ge=1_000, le=MOST_BODY_BYTES, description="Bytes of a request's body.")
    max_inputs: int = Field(1024, ge=1, description="Inputs of a request.")
    max_characters: int = Field(200_000, ge=1, description="Characters of an input, all its texts together.")
    max_numbers: int = Field(1_000_000, ge=1, description="Inputs times labels of an answer; top_k makes them fewer.")
    request_timeout_s: float = Field(60, gt=0, description="Seconds until a request that waits is answered with 503.")
    body_timeout_s: float = Field(30, gt=0, description="Seconds in which a request's body must have come.")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], where: str = "--limit") -> Self:
        """The limits of ``settings``, field to value or its text; raises ConfigError naming ``where`` and the field."""
        try:
            return cls.model_validate(dict(settings))
        except ValidationError as error:
            first = error.errors()[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, cls.model_fields, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(cls.model_fields)}"
            raise ConfigError(f"{where}: unknown limit '{name}'; {hint}")
        raise ConfigError(
            f"{where} {name}: {first['msg'][0].lower()}{first['msg'][1:]} (it is {str(first['input'])[:80]!r})"
        )

    def check_inputs(self, inputs: Sequence[Any], field: str = "inputs") -> None:
        """Raise ApiError 422, naming ``field``, for too many inputs or one that is too long.

        An input is a text, a pair of texts, or a list of chat messages (mappings), whose every text counts.
        """
        if len(inputs) > self.max_inputs:
            raise invalid(f"{field}: {len(inputs)} are too many; send at most {self.max_inputs} in one request")
        for place, item in enumerate(inputs):
            size = len(item) if isinstance(item, str) else _characters(item)
            if size > self.max_characters:
                raise invalid(f"{field}[{place}]: {size} characters are too many; send at most {self.max_characters}")

    def check_answer(self, inputs: int, labels: int, top_k: int | None = None, field: str = "inputs") -> None:
        """Raise ApiError 422 for an answer of too many numbers: ``inputs`` times the labels that each will show."""
        each = labels if top_k is None else min(top_k, labels)
        if inputs * each > self.max_numbers:
            fits = self.max_numbers // each
            mend = [f"send at most {fits} in one request"] if fits else []
            mend += [f"set top_k to at most {self.max_numbers // inputs}"] if self.max_numbers >= inputs else []
            what = f"an answer of {inputs} inputs times {each} labels is too large"
            raise invalid(f"{field}: {what}; {' or '.join(mend) or 'send fewer inputs and set top_k'}")


def _characters(item: Any) -> int:
    """The characters of all texts in ``item``; its nesting is bounded where JSON is read."""
    if isinstance(item, str):
        return len(item)
    if isinstance(item, Mapping):
        item = item.values()
    elif not isinstance(item, list | tuple):
        return 0
    return sum(map(_characters, item))


class RateLimiter:
    """A token bucket for each key (Turner 1986; RFC 2697 has the same): so many requests a minute, as many at once.

    It counts what this process sees: each of ``processes`` gives its part of a rate. ``clock`` is in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = 10_000, *, processes: int = 1) -> None:
        self._clock = clock
        self._processes = processes
        self._most = most
        self._buckets: dict[str, tuple[float, float, float]] = {}  # requests left, at which time, rate a minute

    def take(self, key: str, per_minute: float | None) -> float:
        """Take one request: 0.0, or the seconds to wait when there is none. Without a rate there is no limit."""
        if per_minute is None:
            return 0.0
        now = self._clock()
        per_minute /= self._processes
        capacity = max(1.0, per_minute)
        left = min(self._left(key, now, capacity), capacity)
        wait = 0.0 if left >= 1.0 else (1.0 - left) * 60.0 / per_minute
        if not wait:
            left -= 1.0
        if len(self._buckets) >= self._most and key not in self._buckets:
            self._forget_full(now)
        self._buckets[key] = (left, now, per_minute)
        return wait

    def check(self, key: str, per_minute: float | None) -> None:
        """Take one request; raises ApiError 429 with ``Retry-After`` when there is none."""
        wait = self.take(key, per_minute)
        if wait:
            raise rate_limited(f"more than {per_minute:g} requests a minute with this key", wait)

    def _left(self, key: str, now: float, new: float) -> float:
        left, then, rate = self._buckets.get(key, (new, now, 0.0))
        return left + max(0.0, now - then) * rate / 60.0

    def _forget_full(self, now: float) -> None:
        """A full bucket is as good as none."""
        for key in [key for key, (_, _, rate) in self._buckets.items() if self._left(key, now, 0) >= max(1.0, rate)]:
            del self._buckets[key]
