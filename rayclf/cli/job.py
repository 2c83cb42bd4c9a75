"""What the scripts under ``jobs/`` share: settings from a YAML file, a stop that is orderly, one line for an error.

``ray job stop`` sends SIGTERM, which becomes a KeyboardInterrupt: a training writes a checkpoint, a search keeps its
best, scoring commits what is done.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from rayclf.cli.job_log import JobLog
from rayclf.cli.options import check_lasts
from rayclf.config_file import StrictLoader, load_config
from rayclf.errors import ConfigError, RayclfError, one_line

STOPPED = 130  # the exit code of a job that was stopped, as of a command that Ctrl-C ends


@dataclass(frozen=True)
class Job:
    """A job that begins: ``settings`` are arguments for the façade's function, ``log`` takes its events."""

    settings: dict[str, Any]
    log: JobLog


@contextmanager
def open_job(doc: str | None, facade: Callable[..., Any], **more: Any) -> Iterator[Job]:
    """Run the block as a job whose only argument is a YAML file with the arguments of ``facade``.

    ``doc`` is the script's docstring, for ``--help``; ``more`` are keys of the job's own, with their types. Ends the
    process as ``rayclf`` does: 2 and one line for what the user can mend, 1 for anything else, 130 when stopped.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path, help="YAML file")
    file = parser.parse_args().settings
    try:
        yield Job(read_settings(file, facade, more), JobLog())
    except RayclfError as error:
        _end(f"error: {error}", error.exit_code)
    except KeyboardInterrupt:
        _end("stopped", STOPPED)
    except OSError as error:
        if error.filename is None:
            raise
        _end(f"error: {error.filename}: {error.strerror}", 2)


def _end(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)


def read_settings(file: Path, facade: Callable[..., Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for ``facade`` in a YAML file; its ``config`` is a file's name, or the sections themselves.

    Those become ``overrides``, under the ones that are there.

    Raises ConfigError that names the file and the key which is unknown, missing or of a wrong type, and for an output
    in the folder that Ray unpacks a job's files in: it is deleted with the job.
    """
    settings = _load(file)
    known, required = _arguments(facade)
    known |= more
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
            raise ConfigError(f"{file}: unknown key '{name}'; {hint}")
    for name in required:
        if settings.get(name) is None:
            raise ConfigError(f"{file}: '{name}' is missing; add a line '{name}: …'")
    if isinstance(settings.get("config"), dict):
        fields = _fields(settings.pop("config"))
        try:
            load_config(overrides=fields)
        except ConfigError as error:
            raise ConfigError(f"{file}: config: {error}") from None
        settings["overrides"] = fields | (settings.get("overrides") or {})
    settings = {name: _checked(file, name, value, known[name]) for name, value in settings.items()}
    try:
        check_lasts(settings.get("output"))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return settings


def _load(file: Path) -> dict[str, Any]:
    try:
        settings = yaml.load(file.read_text(encoding="utf-8"), Loader=StrictLoader)  # noqa: S506  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror}); check the name") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid YAML: {one_line(error)}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{file}: must hold lines such as 'output: /mnt/shared/runs/x'")
    return settings


def _fields(sections: Mapping[Any, Any]) -> dict[str, Any]:
    """Sections of settings as ``section.field`` and value, the form in which one can be laid over another."""
    fields: dict[str, Any] = {}
    for section, values in sections.items():
        if isinstance(values, dict):
            fields |= {f"{section}.{name}": value for name, value in values.items()}
        else:
            fields[str(section)] = values
    return fields


def _arguments(facade: Callable[..., Any]) -> tuple[dict[str, Any], list[str]]:
    """The types of the arguments by name, callbacks left out, and the names of those that must be given."""
    hints, known, required = get_type_hints(facade), dict[str, Any](), []
    for name, parameter in inspect.signature(facade).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            for options in get_args(hints[name]):  # **options: Unpack[a TypedDict]; Any names none
                known |= get_type_hints(options)
        elif not name.startswith("on_"):
            known[name] = hints[name]
            if parameter.default is inspect.Parameter.empty:
                required.append(name)
    return known, required


def _checked(file: Path, name: str, value: Any, wanted: Any) -> Any:
    try:
        found = TypeAdapter(wanted).validate_python(value)
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise ConfigError(f"{file}: {name}: {problem[0].lower()}{problem[1:]} (it is {value!r})") from None
    return value if isinstance(found, Iterator) else found  # pydantic checks an Iterable when it is gone through
