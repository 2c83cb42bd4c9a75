"""JSON and YAML files to plain trees of dicts, lists and scalars, in which no key hides another."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from rayclf.errors import DataError, one_line

_NULLS = ("", "~", "null", "Null", "NULL")  # of YAML
_DEPTH = 20


def json_tree(place: str, text: str) -> Any:
    """The parsed text of file ``place``; raises DataError for broken JSON and for a key that stands twice."""
    try:
        return json.loads(text, object_pairs_hook=_mapping)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: line {error.lineno}: broken JSON ({error.msg})") from None
    except ValueError as error:
        raise DataError(f"{place}: broken JSON ({error})") from None
    except RecursionError:
        raise DataError(f"{place}: broken JSON (nested too deeply)") from None


def yaml_tree(place: str, text: str) -> Any:
    """The parsed text of file ``place``, every scalar but null a string: ``no`` and ``1.0`` may be names.

    An empty file is an empty list. Raises DataError for broken YAML, a key that stands twice, several documents, deep
    nesting, and aliases. It is made of the parser's events, because libyaml's own composer overflows the stack on deep
    nesting, and a few lines of aliases can stand for billions of nodes.
    """
    root: list[Any] = []
    nest: list[list[Any]] = [root]
    line = 0
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader)):
            line = event.start_mark.line + 1 if event.start_mark else line
            if isinstance(event, yaml.ScalarEvent):
                empty = event.implicit[0] and event.value in _NULLS
                nest[-1].append(None if empty else event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                if len(nest) > _DEPTH:
                    raise ValueError("nested too deeply")
                nest.append([])
            elif isinstance(event, yaml.SequenceEndEvent):
                items = nest.pop()
                nest[-1].append(items)
            elif isinstance(event, yaml.MappingEndEvent):
                items = nest.pop()
                keys = items[::2]
                if not all(isinstance(key, str) for key in keys):
                    raise ValueError("a key is not text; write it in quotes")
                nest[-1].append(_mapping(list(zip(keys, items[1::2], strict=True))))
            elif isinstance(event, yaml.AliasEvent):
                raise ValueError(f"*{event.anchor} refers to another place; write its value out, or quote the star")
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else line
        raise DataError(f"{place}: line {line}: broken YAML ({error.problem or error.context})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{place}: line {line}: broken YAML ({one_line(error)})") from None
    if len(root) > 1:
        raise DataError(f"{place}: must hold one YAML document, not {len(root)}")
    return root[0] if root else []


def _mapping(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a mapping; raises ValueError for a key that stands twice, which would hide a label."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"'{key[:60]}' stands twice")
        found[key] = value
    return found
