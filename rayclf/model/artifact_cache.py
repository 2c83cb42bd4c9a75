"""Artifacts in object storage, fetched once a node onto its local disk, where everything else reads them.

    <cache>/<SHA-256 of rayclf.json>/<the end of the address>/rayclf.json …

``rayclf.json`` holds the SHA-256 of every other file, so its own hash names one content: an artifact that changed has
another folder, and a folder never changes. ``<cache>`` is ``$RAYCLF_CACHE``, or ``~/.cache/rayclf/artifacts``.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

from filelock import FileLock

from rayclf import storage
from rayclf.errors import ArtifactError
from rayclf.model.info import INFO, PLACES, ArtifactInfo, parse_info, read_info, verify
from rayclf.storage_errors import failures, shown

CACHE_VARIABLE = "RAYCLF_CACHE"
_AT_ONCE, _PART = 4, 2**22  # files fetched at a time, bytes read at a time


def cache_folder() -> Path:
    """Where fetched artifacts lie on this node."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/rayclf/artifacts").expanduser()


def fetch_artifact(address: str, fingerprint: str | None = None) -> Path:
    """The local folder of the artifact at a remote ``address``, which may also be a run folder's.

    It is fetched when it is not here yet, whole or not at all, by one process of the node while others wait. A copy of
    that ``fingerprint``, the SHA-256 of its ``rayclf.json``, is taken without asking the storage. Raises ArtifactError
    when there is no artifact at the address, when it is damaged, or when it is another one than that of
    ``fingerprint``; StorageError when the storage or the disk cannot be used.
    """
    if fingerprint:
        for place in PLACES:
            folder = _folder(storage.join(address, *place), fingerprint)
            if _is_whole(folder):
                return folder
    source, content = _find(address)
    named = shown(source)
    found = hashlib.sha256(content).hexdigest()
    if fingerprint not in (None, found):
        raise ArtifactError(f"{named}: has been replaced by another artifact meanwhile; start again")
    info = parse_info(content, storage.join(named, INFO))
    target = _folder(source, found)
    with failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):  # let go of by the system when a process dies
            if not _is_whole(target):
                _fetch(source, info, content, target)
    return target


def _fetch(source: str, info: ArtifactInfo, content: bytes, target: Path) -> None:
    """Fetch beside ``target``, check every file, and only then rename."""
    draft = target.with_name(f".{target.name}.tmp")
    for left in (draft, target):  # of a process that was killed, and a copy of which files have been taken away
        shutil.rmtree(left, ignore_errors=True)
    draft.mkdir()
    filesystem, inner = storage.resolve(source)

    def fetch(name: str) -> None:
        place = draft / name
        place.parent.mkdir(parents=True, exist_ok=True)
        address = storage.join(source, storage.spelled(name))
        with suppress(FileNotFoundError):  # which the check below tells of
            with failures(address):
                stream = filesystem.open_input_stream(posixpath.join(inner, name), compression=None)
            with stream, place.open("wb") as file:
                while True:
                    with failures(address):
                        part = stream.read(_PART)
                    if not part:
                        break
                    file.write(part)  # what fails here is the disk

    for name in info.files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ArtifactError(f"{shown(source)}: damaged, '{name}' is no file of an artifact")
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(fetch, info.files))
        (draft / INFO).write_bytes(content)
        verify(draft, info, shown(source))
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _find(address: str) -> tuple[str, bytes]:
    """The address of the artifact itself and its ``rayclf.json``."""
    for place in PLACES:
        source = storage.join(address, *place)
        file = storage.join(source, INFO)
        filesystem, inner = storage.resolve(file)
        opened = filesystem.open_input_stream
        with failures(file), suppress(FileNotFoundError), opened(inner, compression=None) as stream:
            return source, bytes(stream.read())
    storage.kind(address)  # raises StorageError where the whole bucket is missing
    raise ArtifactError(f"{shown(address)}: neither an artifact nor a finished run: no {INFO} there; check the address")


def _folder(source: str, fingerprint: str) -> Path:
    """Where that artifact is kept. The end of its address stays: columns and endpoints are called after the run."""
    path = shown(source).partition("?")[0].partition("://")[2].rpartition("@")[2]
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    name = parts[-2:] if parts[-1:] == ["artifact"] else parts[-1:]
    return cache_folder().joinpath(fingerprint, *(name or ["artifact"]))


def _is_whole(folder: Path) -> bool:
    """Whether all files are there; what they hold was checked before the folder had its name."""
    try:
        return all((folder / name).is_file() for name in read_info(folder).files)
    except ArtifactError:
        return False
