"""The files of an input: one file, the data files of a folder, or those a glob matches, here or in an object store.

A folder named ``key=value`` gives each file below it a column, as Hive, Spark and Arrow write partitions.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import unquote

from pyarrow import fs

from rayclf import storage
from rayclf.data.formats import EXTENSIONS, format_of
from rayclf.errors import DataError
from rayclf.storage_errors import failures, shown

HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_WILD = re.compile(r"[*?\[]")
_OPTIONS = re.compile(r"\?\w+=[^/&*?\[]*(&\w+=[^/&*?\[]*)*$")  # the end of a URI that is no glob: ?region=…&scheme=…
_AT_ONCE = 16  # requests for versions under way


@dataclass(frozen=True)
class Source:
    """One input file as it is now.

    ``path`` is what :mod:`rayclf.storage` takes; ``name`` the place below the input, which names rows; ``size`` is in
    bytes; ``version`` changes with the content (an ETag, or the time of change in ns); ``partitions`` are the columns
    that folders of ``name`` give, None for Hive's null.
    """

    path: str
    name: str
    size: int
    version: str
    partitions: Mapping[str, str | None] = field(default_factory=dict, hash=False)


def find_sources(place: str | os.PathLike[str]) -> list[Source]:
    """The data files of an input, sorted by name: a file, a folder or a glob (``*``, ``?``, ``[…]``, ``**``).

    Below a folder, hidden files and those that are not data are left out; a folder that a glob matches stands for
    what is below it. A file or folder whose name has a glob's characters wins over the glob. In a URI these may stand
    as they are. Raises DataError when there is nothing to read, StorageError when the storage fails.
    """
    text = os.fspath(place)
    base, pattern = _split(text)
    literal = storage.join(base, *map(storage.spelled if "://" in text else str, pattern))
    kind = storage.kind(literal)
    if kind == "file":
        return [_single(literal)]
    if kind == "folder":
        base, pattern = literal, ()
    elif not pattern:
        raise DataError(f"{shown(text)}: no such file or folder")
    return _found(text, base, pattern)


def _split(text: str) -> tuple[str, tuple[str, ...]]:
    """The longest part before a wildcard, and the names after it, unescaped; of an input without one, itself."""
    remote = "://" in text
    options = _OPTIONS.search(text) if remote else None
    address, end = (text[: options.start()], options[0]) if options else (text, "")
    start = address.index("://") + 3 if remote else 0
    wild = _WILD.search(address, start)
    if wild is None:
        return text, ()
    cut = address.rfind("/", 0, wild.start()) + 1
    if remote and cut <= start:
        raise DataError(f"{shown(text)}: a bucket's name cannot hold wildcards; name the bucket")
    names = tuple(unquote(name) if remote else name for name in address[cut:].split("/") if name)
    folder = address[:cut]
    if folder[-2:-1] not in ("", "/"):  # a root keeps its slash
        folder = folder[:-1]
    return (folder or os.curdir) + end, names


def _single(path: str) -> Source:
    format_of(shown(path).partition("?")[0] if "://" in path else path)  # whose error shows what it is given
    filesystem, inner = storage.resolve(path)
    with failures(path):
        info = filesystem.get_file_info(inner)
    return Source(path, posixpath.basename(inner.replace(os.sep, "/")), info.size or 0, _version(path, info))


def _found(text: str, base: str, pattern: Sequence[str]) -> list[Source]:
    asked = shown(text)
    try:
        entries = storage.entries(base)
    except FileNotFoundError:
        entries = []
    entries = [entry for entry in entries if _matches(entry.name.split("/"), pattern)]
    data = [entry for entry in entries if _is_data(entry.name)]
    if not data and pattern:
        what = "the glob matches no data files" if entries else "the glob matches no files"
        raise DataError(f"{asked}: {what}; rayclf reads {', '.join(EXTENSIONS)}")
    if not data:
        raise DataError(f"{asked}: no data files in this folder; rayclf reads {', '.join(EXTENSIONS)}")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        versions = list(pool.map(lambda entry: _version(entry.path, entry.info), data))
    return [
        Source(entry.path, entry.name, entry.info.size or 0, version, partitions_of(entry.name))
        for entry, version in zip(data, versions, strict=True)
    ]


def _is_data(name: str) -> bool:
    try:
        return bool(format_of(name))
    except DataError:
        return False


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the names of a file, or of a folder above it, match those of a glob; ``**`` is any number of folders."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(parts[skip:], pattern[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _version(path: str, info: fs.FileInfo) -> str:
    """The ETag, which costs one request; times of change in object stores are to the second only."""
    filesystem, inner = storage.resolve(path)
    if filesystem.type_name in ("s3", "gcs", "abfs"):
        with failures(path), filesystem.open_input_stream(inner, compression=None) as stream:
            for key, value in (stream.metadata() or {}).items():
                if key.lower() == ("etag" if isinstance(key, str) else b"etag"):
                    return (value.decode() if isinstance(value, bytes) else str(value)).strip('"')
    return str(info.mtime_ns)


def partitions_of(name: str) -> dict[str, str | None]:
    """The columns that the ``key=value`` folders of a file's place below its input give; the innermost wins."""
    pairs = (part.partition("=") for part in name.split("/")[:-1])
    return {unquote(key): None if value == HIVE_NULL else unquote(value) for key, mark, value in pairs if key and mark}
