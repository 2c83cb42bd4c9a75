"""Files by path or URI: find, read, list, and write whole or not at all.

A path without a scheme is local. ``file://``, ``s3://``, ``gs://`` and ``abfs://`` go through ``pyarrow.fs``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from rayclf.errors import UserError


def resolve(path: str | os.PathLike[str]) -> tuple[fs.FileSystem, str]:
    """The filesystem and the path inside it; raises UserError for a URI of an unknown scheme."""
    text = os.fspath(path)
    if "\0" in text:
        raise UserError(f"{text!r}: a path cannot hold a NUL character")
    if "://" not in text:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))
    try:
        filesystem, inner = fs.FileSystem.from_uri(text)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{text}: cannot be opened as a storage address ({error}); use a path, s3://, gs:// or abfs://"
        ) from None
    return filesystem, inner


def join(path: str | os.PathLike[str], *parts: str) -> str:
    """``path/part/…`` for a local path or a URI."""
    text = os.fspath(path)
    return posixpath.join(text, *parts) if "://" in text else os.path.join(text, *parts)


def local_path(path: str | os.PathLike[str], what: str) -> Path:
    """``path`` as a local one; raises UserError for a remote address, naming ``what`` it was given as."""
    text = os.fspath(path)
    if "://" in text and not text.startswith("file://"):
        raise UserError(f"{what} {text}: must be a local path; copy it here first")
    return Path(resolve(text)[1])


def kind(path: str | os.PathLike[str]) -> str:
    """``file``, ``folder`` or ``missing``."""
    filesystem, inner = resolve(path)
    found = filesystem.get_file_info(inner).type
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "missing")


def files_under(folder: str | os.PathLike[str]) -> list[str]:
    """All files below a folder, sorted, as paths or URIs that this module takes; hidden ones are left out."""
    filesystem, inner = resolve(folder)
    infos = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    names = sorted(posixpath.relpath(i.path, inner) for i in infos if i.type == fs.FileType.File)
    # A URI escapes spaces, '#', '?' and '%': unescaped, "a#b.csv" would open "a".
    spell = quote if "://" in os.fspath(folder) else str
    return [join(folder, spell(n)) for n in names if not any(part[0] in "._" for part in n.split("/"))]


def size_and_version(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What tells one state of a file from another: its size in bytes and its time of change."""
    filesystem, inner = resolve(path)
    info = filesystem.get_file_info(inner)
    return {"size": info.size, "modified_ns": info.mtime_ns}


@contextmanager
def write_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name only when the block ends well.

    Local files are written beside their place and renamed, which POSIX makes atomic; an object store shows an
    object only once its upload has completed. It is drafted on the local disk first, because closing Arrow's stream
    after an exception would complete the upload of half a file.
    """
    filesystem, inner = resolve(path)
    if not isinstance(filesystem, fs.LocalFileSystem):
        with tempfile.TemporaryFile() as local:
            yield local
            local.seek(0)
            with filesystem.open_output_stream(inner) as stream:
                shutil.copyfileobj(local, stream, 2**20)
        return
    os.makedirs(os.path.dirname(inner), exist_ok=True)
    draft = f"{inner}.{uuid.uuid4().hex[:8]}.tmp"
    try:
        with open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, inner)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


@contextmanager
def folder_whole(folder: Path) -> Iterator[Path]:
    """A draft folder that takes the place of ``folder``, which must be empty or missing, when the block ends well."""
    draft = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    draft.mkdir(parents=True)
    try:
        yield draft
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all; numbers that JSON has not (NaN) become null."""
    with write_whole(path) as file:
        file.write((json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n").encode())


def plain(value: Any) -> Any:
    """``value`` with null in the place of NaN and infinities, which are not JSON."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | os.PathLike[str]) -> Any:
    """The parsed JSON file; raises FileNotFoundError, or ValueError when it is not JSON."""
    filesystem, inner = resolve(path)
    with filesystem.open_input_stream(inner, compression=None) as file:
        return json.loads(file.read())


def sha256(path: Path) -> str:
    """The SHA-256 of a local file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
