"""Metrics that users write: ``--metric my_metrics.py:function``.

Two forms, told apart by the number of positional parameters without a default:

    def cost(input_text, expected, predicted): ...   # one row → a number; the mean over rows is the metric
    def recall(expected, probabilities): ...         # all rows of a part → a number, or {key: number}

A file's source is read once, at the driver, and travels with the job: workers on other nodes need not see the file.
It is the user's own code and runs with the rights of the job.
"""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Literal

import numpy as np

from rayclf.errors import ConfigError, one_line
from rayclf.labels import Floats
from rayclf.metrics import METRICS

# What the lines of metrics.jsonl hold besides the headline metrics.
_TAKEN = frozenset({*METRICS, "time", "kind", "part", "step", "epoch", "rows", "per_label", "confusions"})


@dataclass(frozen=True)
class OwnMetric:
    """A user's metric; travels by pickle inside one cluster.

    ``place`` is a file whose ``source`` comes along, or (``source`` None) a module that every worker has installed.
    ``form`` is ``row`` or ``array``. Larger values are better unless ``lower_is_better``.
    """

    place: str
    name: str
    source: str | None
    form: Literal["row", "array"]
    lower_is_better: bool

    @property
    def spec(self) -> str:
        """How the user wrote it."""
        return f"{self.place}:{self.name}"

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself, made of the source once a process."""
        return getattr(_module(self.place, self.source), self.name)

    def row(self, row_id: str, text: str, expected: dict[str, float], predicted: dict[str, float]) -> float:
        """The value of one row. Raises ConfigError that names the row and holds nothing of its text."""
        try:
            value = self.function(text, expected, predicted)
        except (Exception, SystemExit) as error:
            # The message of the exception is left out: it may quote the text.
            raise self._error(f"raised {type(error).__name__}{_line(error, self.place)} on row {row_id}") from None
        return self._number(value, f"on row {row_id}")

    def array(self, expected: Floats, probabilities: Floats) -> dict[str, float]:
        """The values over all rows of a part by name. Raises ConfigError."""
        where = f"over {len(expected)} rows"
        try:
            value = self.function(expected.copy(), probabilities.copy())
        except (Exception, SystemExit) as error:
            what = f"{type(error).__name__}: {one_line(error)}"
            raise self._error(f"raised {what}{_line(error, self.place)} {where}") from None
        if not isinstance(value, Mapping):
            return {self.name: self._number(value, where)}
        if any(not isinstance(key, str) or not key for key in value):
            raise self._error(f"returned a dict whose keys are not all strings {where}")
        return {f"{self.name}.{key}": self._number(item, f"as {key!r} {where}") for key, item in value.items()}

    def _number(self, value: Any, where: str) -> float:
        if not isinstance(value, numbers.Real | np.bool_):
            raise self._error(f"returned {type(value).__name__}, not a number, {where}")
        if math.isinf(value):
            raise self._error(f"returned {value} {where}; return a finite number, or NaN for no value")
        return float(value)

    def _error(self, what: str) -> ConfigError:
        return ConfigError(f"metric {self.spec}: {what}")


def load_metric(spec: str) -> OwnMetric:
    """The metric of ``file.py:function`` or ``package.module:function``.

    Raises ConfigError for a file or function that is not there, code that does not run, another number of parameters,
    and a name that rayclf's own metrics use.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name.isidentifier():
        raise ConfigError(f"metric {spec}: must be file.py:function or package.module:function")
    source = _read(spec, place) if place.endswith(".py") or "/" in place else None
    try:
        module = _module(place, source)
    except SyntaxError as error:
        raise ConfigError(f"metric {spec}: {error.msg}, line {error.lineno}; mend the file") from None
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and place.startswith(error.name):
            mend = "a file's name must end in .py" if "." not in place else "install it here and on every worker"
            raise ConfigError(f"metric {spec}: no module {error.name}; {mend}") from None
        what = f"{type(error).__name__}: {one_line(error)}"
        raise ConfigError(f"metric {spec}: loading it raised {what}{_line(error, place)}") from None
    function = getattr(module, name, None)
    if function is None:
        near = difflib.get_close_matches(name, _functions(module), n=1)
        raise ConfigError(f"metric {spec}: no such function in it{f'; did you mean {near[0]}?' if near else ''}")
    if name in _TAKEN:
        raise ConfigError(f"metric {spec}: rayclf has a metric or field {name} of its own; rename the function")
    lower = bool(getattr(function, "lower_is_better", False))
    return OwnMetric(place, name, source, _form(spec, function), lower)


def load_metrics(specs: Sequence[str]) -> tuple[OwnMetric, ...]:
    """The metrics of ``evaluation.metrics``; raises ConfigError as :func:`load_metric`, and for two of one name."""
    found: dict[str, OwnMetric] = {}
    for spec in dict.fromkeys(specs):
        metric = load_metric(spec)
        if metric.name in found:
            raise ConfigError(f"metrics {found[metric.name].spec} and {spec}: have the same name; rename one function")
        found[metric.name] = metric
    return tuple(found.values())


def check_choice(choice: str, metrics: Sequence[OwnMetric], known: Sequence[str] = METRICS) -> None:
    """Raise ConfigError when ``train.metric`` is neither a ``known`` metric nor an own one.

    An own metric is chosen by its name, a value of a dict as ``function.key``, of which only the function is checked.
    """
    if choice in known or find_choice(choice, metrics) is not None:
        return
    near = difflib.get_close_matches(choice, [*known, *(metric.name for metric in metrics)], n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; it must be one of {', '.join(known)} or one of --metric"
    raise ConfigError(f"train.metric: there is no metric {choice}{hint}")


def find_choice(choice: str, metrics: Sequence[OwnMetric]) -> OwnMetric | None:
    """The own metric that ``train.metric`` chooses, if it is one: its ``lower_is_better`` says which value wins."""
    name, dot, _ = choice.partition(".")
    found = next((metric for metric in metrics if metric.name == name), None)
    return None if found is None or (dot and found.form == "row") else found


def _read(spec: str, place: str) -> str:
    try:
        return Path(place).read_text("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"metric {spec}: no such file {place}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"metric {spec}: cannot read {place}: {reason}") from None


@lru_cache(maxsize=64)
def _module(place: str, source: str | None) -> ModuleType:
    """The module at ``place``: imported, or made of ``source``. Raises whatever its code raises."""
    if source is None:
        return import_module(place)
    # Under a name of its own, since dataclasses and pickle look modules up by name.
    module = ModuleType(f"rayclf_own_{sha256(source.encode()).hexdigest()[:16]}")
    module.__file__ = place
    code = compile(source, place, "exec", dont_inherit=True)
    sys.modules[module.__name__] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 - the user's own code, asked for by name
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _form(spec: str, function: Any) -> Literal["row", "array"]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise ConfigError(f"metric {spec}: is not a function whose parameters can be told") from None
    needed = [parameter for parameter in parameters if parameter.default is parameter.empty]
    positional = [p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = [p for p in needed if p.kind is p.KEYWORD_ONLY]
    if named or len(positional) not in (2, 3):
        raise ConfigError(
            f"metric {spec}: must take (input_text, expected, predicted) for a row or (expected, probabilities) for "
            f"all rows; it needs {len(positional)} positional and {len(named)} keyword arguments"
        )
    return "row" if len(positional) == 3 else "array"


def _functions(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if callable(value)]


def _line(error: BaseException, place: str) -> str:
    """Where in the user's file the exception came from, as `` at line 3``."""
    line, step = 0, error.__traceback__
    while isinstance(step, TracebackType):
        if step.tb_frame.f_code.co_filename == place:
            line = step.tb_lineno
        step = step.tb_next
    return f" at line {line}" if line else ""
