"""Labels files: the label space declared apart from the data, with ids, other names and descriptions.

TSV, CSV, JSON, YAML or SKOS, by the file's name. A label space that is declared has every label, also one that no
training row holds, in an order that does not hang on the rows.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayclf import storage
from rayclf.data.reading import open_binary, open_text, unpacked_name
from rayclf.data.trees import json_tree, yaml_tree
from rayclf.errors import DataError, LabelError
from rayclf.labels import LabelSpace, ProblemType

EXTENSIONS = (".tsv", ".csv", ".txt", ".json", ".yaml", ".yml", ".ttl", ".rdf", ".xml", ".nt")

# What a column or a key may be called, in lower case.
_FIELDS = {
    "name": "name",
    "label": "name",
    "preflabel": "name",
    "preferred": "name",
    "id": "id",
    "uri": "id",
    "alternatives": "alternatives",
    "alt": "alternatives",
    "altlabel": "alternatives",
    "description": "description",
    "definition": "description",
}
_NAMES = ", ".join(name for name, field in _FIELDS.items() if field == "name")


@dataclass(frozen=True)
class Label:
    """One label as declared: what it is called, its identifier elsewhere, other words for it, and what it means."""

    name: str
    id: str | None = None
    alternatives: tuple[str, ...] = ()
    description: str | None = None


def read_labels(path: str | os.PathLike[str], language: str = "en") -> tuple[Label, ...]:
    """The labels of a file, in its order, each with a name of its own; ``.gz`` and ``.zst`` are unpacked.

    Where two labels with different ids share a name, the later one is called ``name (id)``. ``language`` chooses
    among the labels of SKOS. Raises DataError for a file that is missing, empty, broken or of unknown type, LabelError
    for an empty name, and for a name or id that stands twice; both name the line or entry.
    """
    place = os.fspath(path)
    name = unpacked_name(place)
    extension = next((ending for ending in EXTENSIONS if name.endswith(ending)), None)
    if extension is None:
        raise DataError(f"{place}: unknown type of labels file; use one of {', '.join(EXTENSIONS)}, each also with .gz")
    found = storage.kind(place)
    if found != "file":
        raise DataError(f"{place}: {'is a folder, not a file' if found == 'folder' else 'no such file'}")
    entries: Iterable[tuple[str, Mapping[str, Any]]]
    if extension in (".ttl", ".nt", ".rdf", ".xml"):
        from rayclf.data.skos_files import read_concepts

        with open_binary(place) as file:
            data = file.read()
        entries = read_concepts(place, data, xml=extension in (".rdf", ".xml"), language=language)
    else:
        with open_text(place) as file:
            text = file.read()
        if extension in (".tsv", ".csv", ".txt"):
            entries = _table_entries(place, text, comma=extension == ".csv")
        else:
            tree = json_tree(place, text) if extension == ".json" else yaml_tree(place, text)
            entries = _tree_entries(place, tree)
    labels = _distinct(place, ((where, _label(f"{place}: {where}", entry)) for where, entry in entries))
    if not labels:
        raise DataError(f"{place}: holds no labels")
    return labels


def label_space(labels: Sequence[Label], problem_type: ProblemType) -> LabelSpace:
    """The label space of ``labels``, in their order; raises LabelError when they do not fit ``problem_type``."""
    return LabelSpace(
        names=tuple(label.name for label in labels),
        problem_type=problem_type,
        descriptions={label.name: label.description for label in labels if label.description is not None},
        ids={label.name: label.id for label in labels if label.id is not None},
        alternatives={label.name: label.alternatives for label in labels if label.alternatives},
    )


# --- labels of entries ------------------------------------------------------------------------------------------


def _label(where: str, entry: Mapping[str, Any]) -> Label:
    name = _text(where, "name", entry.get("name"))
    if name is None:
        raise LabelError(f"{where}: the name is empty; give every label a name")
    others = entry.get("alternatives")
    if isinstance(others, str):
        others = others.split("|")
    if not isinstance(others, list | None):
        raise DataError(f"{where}: alternatives must be a list of names, or names parted by |")
    alternatives = dict.fromkeys(_text(where, "an alternative", other) for other in others or ())
    return Label(
        name=name,
        id=_text(where, "id", entry.get("id")),
        alternatives=tuple(other for other in alternatives if other is not None and other != name),
        description=_text(where, "description", entry.get("description")),
    )


def _text(where: str, what: str, value: Any) -> str | None:
    """``value`` without space around it, as labels of data files are read; None when nothing is left."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {what} must be text; write it in quotes")
    text = str(value or "").strip()
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: {what} is not valid Unicode") from None
    return text or None


def _distinct(place: str, labels: Iterable[tuple[str, Label]]) -> tuple[Label, ...]:
    """The labels, with ``(id)`` behind a name that an earlier label has."""
    taken: dict[str, Label] = {}
    ids: dict[str, str] = {}
    for where, label in labels:
        if label.id is not None:
            if label.id in ids:
                raise LabelError(
                    f"{place}: {where}: the id '{label.id}' stands twice, first at {ids[label.id]}; drop one"
                )
            ids[label.id] = where
        name = label.name
        while name in taken:
            if label.id is None or taken[name].id is None:
                raise LabelError(
                    f"{place}: {where}: the name '{name}' stands twice; drop one, or give both an id of their own"
                )
            name = f"{name} ({label.id})"
        taken[name] = label if name == label.name else replace(label, name=name)
    return tuple(taken.values())


# --- TSV and CSV ------------------------------------------------------------------------------------------------


def _table_entries(place: str, text: str, comma: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows under a header that names a column of names; without one, names alone, or ids and names."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text) if comma else "\t", strict=True)
    fields: list[str | None] | None = None
    bare = False
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(
                f"{place}: line {line}: broken row ({error}); put a name with quotes in quotes, and double its own"
            ) from None
        if not cells:
            continue  # a blank line
        if fields is None:
            header = [_FIELDS.get(cell.strip().lower()) for cell in cells]
            if "name" in header:
                fields = header
                if twice := _twice(header):
                    raise DataError(f"{place}: line {line}: two columns hold the {twice}; rename or drop one")
                continue
            fields = ["name"] if len(cells) == 1 else ["id", "name"]
            if len(cells) > 2:
                raise DataError(
                    f"{place}: line {line}: {len(cells)} columns need a header with one of {_NAMES}; "
                    "put a name with a comma in quotes"
                )
            bare = len(cells) == 2 and not comma
        if bare and len(cells) > 2:
            cells = [cells[0], "\t".join(cells[1:])]  # of an id and a name, only the name can hold a tab
        if len(cells) != len(fields):
            raise DataError(f"{place}: line {line}: {len(cells)} columns where the first line has {len(fields)}")
        entry = {field: cell for field, cell in zip(fields, cells, strict=True) if field is not None}
        for field in ("name", "id"):
            if "\n" in entry.get(field, "").strip() or "\r" in entry.get(field, "").strip():
                raise DataError(f"{place}: line {line}: the {field} goes over several lines; is a quote left open?")
        yield f"line {line}", entry


def _delimiter(text: str) -> str:
    """A comma, unless the first line is a header by ``;`` or a tab: names themselves may hold those."""
    head = text.lstrip("\r\n").partition("\n")[0]
    for mark in ";\t":
        cells = [cell.strip().strip('"').lower() for cell in head.split(mark)]
        if len(cells) > 1 and "name" in map(_FIELDS.get, cells):
            return mark
    return ","


def _twice(fields: Iterable[str | None]) -> str | None:
    known = [field for field in fields if field is not None]
    return next((field for field in known if known.count(field) > 1), None)


# --- JSON and YAML ----------------------------------------------------------------------------------------------


def _tree_entries(place: str, tree: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Entries of a list, of a mapping from names, or of the list under ``labels``, as in a run's ``labels.json``."""
    if isinstance(tree, dict) and isinstance(tree.get("labels"), list):
        tree = tree["labels"]
    if isinstance(tree, list):
        for number, item in enumerate(tree, start=1):
            where = f"entry {number}"
            yield where, _fields(f"{place}: {where}", item) if isinstance(item, dict) else {"name": item}
    elif isinstance(tree, dict):
        for name, item in tree.items():
            where = f"label '{name[:60]}'"
            entry = _fields(f"{place}: {where}", item) if isinstance(item, dict) else {"description": item}
            if "name" in entry:
                raise DataError(
                    f"{place}: {where}: has a second name inside; make the file a list to keep ids and names"
                )
            yield where, {"name": name, **entry}
    else:
        raise DataError(f"{place}: must be a list of labels, or a mapping from names to descriptions")


def _fields(where: str, item: Mapping[str, Any]) -> dict[str, Any]:
    fields = [_FIELDS.get(key.lower()) for key in item]
    if twice := _twice(fields):
        raise DataError(f"{where}: two keys hold the {twice}; drop one")
    return {field: value for field, value in zip(fields, item.values(), strict=True) if field is not None}
