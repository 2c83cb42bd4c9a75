"""What a search looks through: fields of the configuration, each with a range or a list of values.

train.learning_rate=1e-5..1e-3   any number between, each order of magnitude as likely (a range from 0: evenly)
train.epochs=1..4                each whole number
model.lora.r=4,8,16              one of these
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from rayclf.config import Config, is_section
from rayclf.config_file import load_config, parse_override
from rayclf.errors import ConfigError

RATE, RANK, EPOCHS = "train.learning_rate", "model.lora.r", "train.epochs"
_RANKS = (4, 8, 16, 32, 64)
_RATE_FACTOR = 5  # the default rate is seldom further off than this, and a wider range wastes trials


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    def at(self, share: float) -> Any:
        """The value at ``share`` (0 to below 1) of the way through."""
        return self.values[int(share * len(self.values))]

    def __str__(self) -> str:
        return ",".join(map(str, self.values))


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``: evenly likely, or evenly in its logarithm where ``low`` is above 0."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The number at ``share`` (0 to below 1) of the way through, in three digits that can be read and typed."""
        if self.low > 0:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class Integers:
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def at(self, share: float) -> int:
        """The number at ``share`` (0 to below 1) of the way through."""
        return self.low + int(share * (self.high - self.low + 1))

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


Domain = Choice | Range | Integers
Space = Mapping[str, Domain]


def default_space(settings: Config, learning_rate: float, tuning: str) -> dict[str, Domain]:
    """The learning rate around ``learning_rate``, the rank where ``tuning`` trains adapters, fewer and more epochs."""
    epochs = settings.train.epochs
    space: dict[str, Domain] = {RATE: Range(learning_rate / _RATE_FACTOR, learning_rate * _RATE_FACTOR)}
    if "lora" in tuning:
        space[RANK] = Choice(_RANKS)
    return space | {EPOCHS: Choice(tuple(sorted({max(1, round(epochs / 2)), epochs, 2 * epochs})))}


def read_space(search: Iterable[str], settings: Config) -> dict[str, Domain]:
    """The space that ``--search`` declares; raises ConfigError, naming flag and field, for what no trial could take."""
    space: dict[str, Domain] = {}
    for text in search:
        path, domain = _read(text, settings)
        if path in space:
            raise ConfigError(f"--search {text}: {path} is given twice; join both into one")
        space[path] = domain
    return space


def check_adapters(space: Space, tuning: str) -> None:
    """Raise ConfigError where ``space`` has settings of adapters and a backbone that is tuned this way has none."""
    adapters = "lora" in tuning or "model.method" in space
    if not adapters and any(path.startswith("model.lora.") for path in space):
        raise ConfigError("--search model.lora: this backbone is tuned without adapters; set model.method=lora")


def _read(text: str, settings: Config) -> tuple[str, Domain]:
    path, equals, given = (part.strip() for part in text.partition("="))
    if not equals or not path or not given:
        raise ConfigError(f"--search {text}: must read section.field=low..high or section.field=value,value")
    section = path.partition(".")[0]
    if section not in ("model", "train") and section in Config.model_fields:
        raise ConfigError(f"--search {text}: {section} is the same for all trials; search fields of model and train")
    if path == "train.metric":
        raise ConfigError(f"--search {text}: train.metric is what trials are judged by; choose it with --set")
    kinds = _kinds(path)
    low, dots, high = given.partition("..")
    if dots and "," not in given and kinds & {int, float}:
        return path, _range(text, path, low, high, kinds, settings)
    values = []
    for item in given.split(","):
        values.append(_checked(text, path, parse_override(f"{path}={item.strip()}")[1], settings))
    if len(set(map(repr, values))) < len(values):
        raise ConfigError(f"--search {text}: a value of {path} stands twice")
    return path, Choice(tuple(values))


def _range(text: str, path: str, low: str, high: str, kinds: set[Any], settings: Config) -> Domain:
    whole = float not in kinds
    try:
        ends: list[float] = [int(end) if whole else float(end) for end in (low, high)]
    except ValueError:
        kind = "whole numbers" if whole else "numbers"
        raise ConfigError(f"--search {text}: the range of {path} needs two {kind}, such as 1..4") from None
    for end in ends:
        _checked(text, path, end, settings)
    if not ends[0] < ends[1]:
        raise ConfigError(f"--search {text}: the range of {path} must begin below its end")
    return Integers(int(ends[0]), int(ends[1])) if whole else Range(*ends)


def _checked(text: str, path: str, value: Any, settings: Config) -> Any:
    """``value`` as the configuration takes it."""
    try:
        found: Any = with_values(settings, {path: value})
    except ConfigError as error:
        raise ConfigError(f"--search {text}: {error}") from None
    if is_section(type(current(found, path))):
        raise ConfigError(f"--search {text}: {path} is a section; name one of its fields")
    return current(found, path)


def _kinds(path: str) -> set[Any]:
    """The types that a field takes, without the wrapping; empty for an unknown field."""
    wanted: Any = Config
    for part in path.split("."):
        field = wanted.model_fields.get(part) if is_section(wanted) else None
        wanted = field.annotation if field else None
    return set(_flat(wanted))


def _flat(kind: Any) -> Iterable[Any]:
    inner = [arg for arg in get_args(kind) if isinstance(arg, type) or get_args(arg)]
    return itertools.chain.from_iterable(map(_flat, inner)) if inner else [kind]


def current(settings: Config, path: str) -> Any:
    """The value of the field ``section.field``."""
    value: Any = settings
    for part in path.split("."):
        value = getattr(value, part)
    return value


def with_values(settings: Config, values: Mapping[str, Any]) -> Config:
    """``settings`` with other values in some fields; raises ConfigError as :func:`load_config` does."""
    return load_config(None, {**settings.model_dump(), **values})


def draw(space: Space, first: Mapping[str, Any], count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` different points of ``space``, the ``first`` of them given; fewer where there are no more.

    The others are a Latin hypercube (McKay, Beckman and Conover 1979): each field's range is cut into as many parts as
    there are points and each part is used once, so that eight trials try eight well-spread learning rates. The same
    seed gives the same points.
    """
    source = random.Random(seed)  # noqa: S311  # no secret
    points = [dict(first)]
    strata = {path: source.sample(range(max(0, count - 1)), max(0, count - 1)) for path in space}
    columns: Sequence[dict[str, float]] = [
        {path: (strata[path][row] + source.random()) / (count - 1) for path in space} for row in range(count - 1)
    ]
    spare = ({path: source.random() for path in space} for _ in range(50 * count))  # for points that came twice
    for shares in itertools.chain(columns, spare):
        if len(points) >= count:
            break
        point = {path: domain.at(shares[path]) for path, domain in space.items()}
        if point not in points:
            points.append(point)
    return points
