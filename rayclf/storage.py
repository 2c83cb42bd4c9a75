"""Files by path or URI: find, read, list, and write whole or not at all.

A path without a scheme is local. ``file://``, ``s3://``, ``gs://`` and ``abfs://`` go through ``pyarrow.fs``. What goes
wrong there (wrong keys, no such bucket, a server that is gone) is raised as one line of StorageError without secrets.
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
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
from pyarrow import fs

from rayclf.errors import DamagedFileError, OutputError, StorageError, UserError, one_line
from rayclf.storage_errors import FULL, failure, failures, no_bucket, redacted, scheme, shown

# What every address gets unless it says otherwise. S3: one request instead of three for each object under 10 MB.
# Google: give up after a minute, not a quarter of an hour.
_OPTIONS = {"s3": "allow_delayed_open=true", "gs": "retry_limit_seconds=60", "gcs": "retry_limit_seconds=60"}


def resolve(path: str | os.PathLike[str]) -> tuple[fs.FileSystem, str]:
    """The filesystem and the path inside it; raises UserError for a URI of an unknown scheme."""
    text = os.fspath(path)
    if "\0" in text:
        raise UserError(f"{shown(text)!r}: a path cannot hold a NUL character")
    if "://" not in text:
        return fs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text))
    option = _OPTIONS.get(scheme(text), "")
    if option and option.partition("=")[0] not in text:
        text += ("&" if "?" in text else "?") + option
    try:
        filesystem, inner = fs.FileSystem.from_uri(text)
    except OSError as error:  # without a region S3 is asked for it here
        raise failure(path, error) from None
    except pa.ArrowException as error:
        raise UserError(
            f"{shown(path)}: cannot be opened as a storage address ({redacted(str(error), text)}); use a path, s3://, "
            f"gs:// or abfs://, with %20 and the like for special characters"
        ) from None
    return filesystem, inner


def spelled(name: str) -> str:
    """A name as it is written in a URI, in which spaces, '#', '?' and '%' are escaped, and the '=' of Hive is not."""
    return quote(name, safe="/=")


def join(path: str | os.PathLike[str], *parts: str) -> str:
    """``path/part/…`` for a local path or a URI, whose options (``?region=…``) stay at the end."""
    text = os.fspath(path)
    if "://" not in text:
        return os.path.join(text, *parts)
    base, mark, options = text.partition("?")
    return posixpath.join(base, *parts) + mark + options


def local_path(path: str | os.PathLike[str], what: str) -> Path:
    """``path`` as a local one; raises UserError for a remote address, naming ``what`` it was given as."""
    text = os.fspath(path)
    if "://" in text and not text.startswith("file://"):
        raise UserError(f"{what} {shown(text)}: must be a local path; copy it here first")
    return Path(resolve(text)[1])


def keep_inputs(output: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Raise OutputError when one of the ``inputs``, globs too, would be deleted with the folder ``output``."""
    for path in inputs:
        if path is not None and is_inside(path, output):
            raise OutputError(
                f"{shown(output)}: holds {shown(path)}, which --overwrite would delete; choose another output"
            )


def is_inside(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Whether ``path``, a glob too, lies in ``folder`` or is it, by whatever links."""
    (filesystem, inner), (other, place) = resolve(path), resolve(folder)
    if filesystem.type_name == "local":
        inner, place = os.path.realpath(inner), os.path.realpath(place)
    return bool(filesystem == other) and PurePosixPath(inner).is_relative_to(place)


def kind(path: str | os.PathLike[str]) -> str:
    """``file``, ``folder`` or ``missing``; raises StorageError when the storage or its bucket cannot be asked."""
    filesystem, inner = resolve(path)
    with failures(path):
        found = filesystem.get_file_info(inner).type
        if found == fs.FileType.NotFound:
            _check_bucket(path, filesystem, inner)
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "missing")


class Entry(NamedTuple):
    """A file in a listing: the path or URI that this module takes, its place below the folder, and its facts."""

    path: str
    name: str
    info: fs.FileInfo


def entries(folder: str | os.PathLike[str]) -> list[Entry]:
    """All files below a folder, sorted by name; hidden ones (``.x``, ``_x``, but not ``_x=1``) are left out.

    Raises StorageError when the storage cannot be asked, FileNotFoundError when there is no such folder.
    """
    filesystem, inner = resolve(folder)
    try:
        with failures(folder):
            infos = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
            found = {posixpath.relpath(i.path, inner): i for i in infos if i.type == fs.FileType.File}
    except UnicodeDecodeError:
        raise StorageError(f"{shown(folder)}: a file's name in it is not UTF-8; rename the file") from None
    # A URI escapes spaces, '#', '?' and '%': unescaped, "a#b.csv" would open "a".
    spell = spelled if "://" in os.fspath(folder) else str
    return [Entry(join(folder, spell(name)), name, found[name]) for name in sorted(found) if not _hidden(name)]


def _hidden(name: str) -> bool:
    return any(part[0] == "." or (part[0] == "_" and "=" not in part) for part in name.split("/"))


def files_under(folder: str | os.PathLike[str]) -> list[str]:
    """The paths or URIs of :func:`entries`."""
    return [entry.path for entry in entries(folder)]


def size_and_version(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What tells one state of a file from another: its size in bytes and its time of change."""
    filesystem, inner = resolve(path)
    with failures(path):
        info = filesystem.get_file_info(inner)
    return {"size": info.size, "modified_ns": info.mtime_ns}


@contextmanager
def write_whole(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that appears under its name only when the block ends well.

    Local files are written beside their place, hidden, and renamed, which POSIX makes atomic; an object store shows an
    object only once its upload has completed. It is drafted on the local disk first, because closing Arrow's stream
    after an exception would complete the upload of half a file. Raises StorageError when the place cannot be written.
    """
    filesystem, inner = resolve(path)
    if not isinstance(filesystem, fs.LocalFileSystem):
        with tempfile.TemporaryFile() as local:
            yield local
            local.seek(0)
            _upload(local, path, filesystem, inner)
        return
    place, name = os.path.split(inner)
    draft = os.path.join(place, f".{name}.{uuid.uuid4().hex[:8]}.tmp")  # what reads a folder leaves hidden files out
    try:
        with failures(path):
            os.makedirs(os.path.dirname(inner), exist_ok=True)
            file = open(draft, "wb")  # noqa: SIM115  # closed below; what the block raises is not the storage's failure
        with file:
            yield file
            with failures(path):
                file.flush()
                os.fsync(file.fileno())
        with failures(path):
            os.replace(draft, inner)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(draft)
        if isinstance(error, OSError) and error.errno in FULL:  # which every write in the block can meet
            raise failure(path, error) from None
        raise


def _upload(local: IO[bytes], path: str | os.PathLike[str], filesystem: fs.FileSystem, inner: str) -> None:
    """Copy to an object store; a part that could not be sent makes Arrow leave the upload without completing it."""
    with failures(path):
        try:
            with filesystem.open_output_stream(inner, compression=None) as stream:  # by default a .gz is packed again
                shutil.copyfileobj(local, stream, 2**20)
        except FileNotFoundError as error:
            _check_bucket(path, filesystem, inner)
            raise failure(path, error) from None


@contextmanager
def folder_whole(folder: str | os.PathLike[str], last: str | None = None) -> Iterator[Path]:
    """A local draft that takes the place of ``folder``, which must be empty or missing, when the block ends well.

    A local folder is renamed. To an object store the files go one by one, ``last`` (a path in the folder) after all
    others: where it is seen, the folder is whole. When a file cannot be sent, those before it are taken away again.
    Raises StorageError when the place cannot be written, OutputError when a remote one holds files.
    """
    filesystem, inner = resolve(folder)
    if not isinstance(filesystem, fs.LocalFileSystem):
        with failures(folder):
            found = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
        if found:
            raise OutputError(f"{shown(folder)}: holds files already; choose another folder")
        with tempfile.TemporaryDirectory() as place:
            yield Path(place)
            _upload_folder(Path(place), folder, last)
        return
    target = Path(inner)
    draft = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with failures(folder):
            draft.mkdir(parents=True)
        yield draft
        if target.exists():
            target.rmdir()
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _upload_folder(draft: Path, folder: str | os.PathLike[str], last: str | None) -> None:
    names = sorted(file.relative_to(draft).as_posix() for file in draft.rglob("*") if file.is_file())
    filesystem, inner = resolve(folder)
    sent: list[str] = []
    try:
        for name in sorted(names, key=lambda name: name == last):
            sent.append(posixpath.join(inner, name))
            with (draft / name).open("rb") as local:
                _upload(local, join(folder, spelled(name)), filesystem, sent[-1])
    except BaseException:
        for place in reversed(sent):  # the one that makes the folder look whole goes first
            with suppress(OSError, pa.ArrowException):
                filesystem.delete_file(place)
        raise


def delete_files(paths: Iterable[str], at_once: int = 16) -> None:
    """Delete files, ``at_once`` requests to an object store under way; one that is not there is no error.

    All are gone when this returns. Raises StorageError when one cannot be deleted.
    """

    def delete(path: str) -> None:
        filesystem, inner = resolve(path)
        with suppress(FileNotFoundError), failures(path):
            filesystem.delete_file(inner)

    with ThreadPoolExecutor(at_once) as pool:
        for _ in pool.map(delete, paths):
            pass


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
    """The parsed JSON file; raises FileNotFoundError, StorageError, or DamagedFileError when it is not JSON."""
    filesystem, inner = resolve(path)
    with failures(path):
        try:
            with filesystem.open_input_stream(inner, compression=None) as file:
                content = file.read()
        except FileNotFoundError:
            _check_bucket(path, filesystem, inner)
            raise
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        told = f"damaged, not JSON ({one_line(error)}); put it back from a copy"
        raise DamagedFileError(f"{shown(path)}: {told}") from None


def sha256(path: Path) -> str:
    """The SHA-256 of a local file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_bucket(path: str | os.PathLike[str], filesystem: fs.FileSystem, inner: str) -> None:
    """Raise StorageError when what is missing is the whole bucket; one that may not be asked for counts as there."""
    if filesystem.type_name in ("s3", "gcs", "abfs"):
        with suppress(OSError, pa.ArrowException):
            if filesystem.get_file_info(inner.split("/")[0]).type == fs.FileType.NotFound:
                raise no_bucket(path)
