"""Reads the YAML file of a job and lays ``--set`` over it; every error names the field, and the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rayclf.config import Config, is_section
from rayclf.errors import ConfigError, one_line


def load_config(file: str | Path | None = None, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Config:
    """The configuration of a YAML file with ``overrides`` laid over it.

    ``overrides`` are ``section.field`` to value, or the strings ``section.field=value`` of ``--set``, whose values
    are read as YAML. Raises ConfigError that names the field and, for an unknown one, the nearest known.
    """
    tree: dict[str, Any] = {}
    if file is not None:
        try:
            loaded = yaml.load(Path(file).read_text(encoding="utf-8"), Loader=StrictLoader)  # noqa: S506  # a SafeLoader
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read ({error.strerror}); check --config") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # 2024-13-45 is a ValueError
            raise ConfigError(f"{file}: not valid YAML: {one_line(error)}") from None
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{file}: must hold sections such as 'data:' and 'train:'")
        tree = loaded or {}
    pairs = dict(overrides if isinstance(overrides, Mapping) else map(parse_override, overrides))
    for path, value in pairs.items():
        _assign(tree, path, value)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_explain(error, file, pairs)) from None
    if config.model.template.count("{text}") != 1:
        raise ConfigError("model.template: must contain {text} exactly once")
    return config


class StrictLoader(yaml.SafeLoader):
    """YAML lets a key stand twice and keeps the last, so that the fields of the first ``train:`` would be lost.

    It also reads ``2e-5`` as a string, which is left so: the field's type makes it the number, and a revision
    ``12e5`` stays what it is.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; raises ConstructorError for a key that stands twice."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' stands twice", key.start_mark)
            seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


def parse_override(text: str) -> tuple[str, Any]:
    """``section.field=value`` as path and value, read as YAML or as it stands; raises ConfigError without ``=``."""
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path:
        raise ConfigError(f"--set {text}: must read section.field=value, such as train.epochs=3")
    # Where text is asked for, what is typed is meant as it stands: in YAML {text} is a mapping, yes a boolean, | a
    # block and " #1" a comment.
    if _takes_text(path) and value.strip()[:1] not in ("'", '"') and value not in ("", "~", "null"):
        return path, value.strip() or value
    try:
        return path, yaml.load(value, Loader=StrictLoader)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        return path, value


def _takes_text(path: str) -> bool:
    wanted: Any = Config
    for part in path.split("."):
        field = wanted.model_fields.get(part) if is_section(wanted) else None
        wanted = field.annotation if field else None
    return wanted in (str, str | None)


def _assign(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        child = tree.get(parent)
        if child is not None and not isinstance(child, dict):
            raise ConfigError(f"{path}: '{parent}' is not a section")
        tree[parent] = child = dict(child or {})
        tree = child
    tree[last] = value


def _explain(error: ValidationError, file: str | Path | None, overridden: Collection[str]) -> str:
    first = error.errors()[0]
    section: Any = Config
    places: list[str] = []
    for part in map(str, first["loc"]):
        places.append(part)
        field = section.model_fields.get(part)
        if field is None or not is_section(field.annotation):
            break  # what follows tells which branch of the field's type failed
        section = field.annotation
    path = ".".join(places)
    where = f"{file}: " if file is not None and path not in overridden else ""
    if first["type"] == "extra_forbidden":
        known = list(section.model_fields)
        near = difflib.get_close_matches(places[-1], known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"{where}unknown key '{path}'; {hint}"
    value = repr(first["input"])
    value = value if len(value) <= 80 else f"{value[:80]}…"
    # A field that may be a word or a number has an error for each.
    wrong = [one["msg"] for one in error.errors() if one["loc"][: len(places)] == first["loc"][: len(places)]]
    told = ", or ".join(dict.fromkeys(f"{msg[0].lower()}{msg[1:]}" for msg in wrong[:2]))
    return f"{where}{path}: {told} (it is {value})"
