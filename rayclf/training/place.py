"""Where a new run or search goes, and what becomes of the old one that it replaces.

The old one is kept aside, in the same folder, until a run has made a step, a search has a best trial: what only the
workers can find, such as a metric of the user's that raises or too little memory, is found late, and days of training
are not to be lost for it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from rayclf import storage
from rayclf.errors import DamagedFileError, OutputError
from rayclf.training.resume import check_idle
from rayclf.training.run import RUN, Kind

_ASIDE = ".replaced"
_MOVING = ".moving"  # of what is set aside or put back the part that is not in its place yet, or no longer
_GONE = ".deleted"


def place_for(output: str | os.PathLike[str], what: str) -> Path:
    """The local folder that ``--output`` names for ``what``; raises OutputError when it cannot be made there."""
    folder = storage.local_path(output, "--output")
    there = next(place for place in (folder, *folder.parents) if os.path.exists(place))
    if not os.path.isdir(there):
        which = "" if there == folder else f"{there} "
        raise OutputError(f"{os.fspath(output)}: {which}is a file; --output must name a folder for the {what}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise OutputError(f"{os.fspath(output)}: {there} may not be written to; choose another --output")
    return folder


def check_place(
    output: str | os.PathLike[str],
    overwrite: bool,
    inputs: Iterable[str | os.PathLike[str] | None] = (),
    kind: Kind = RUN,
) -> Path:
    """The folder for a new run, or a search.

    Raises OutputError when it holds something else, or one and not ``overwrite``, or one that is at work, or with it
    one of the ``inputs``.
    """
    folder = place_for(output, kind.name)
    mend(folder, kind)
    if folder.is_dir() and any(folder.iterdir()):
        if not kind.is_in(folder):
            raise OutputError(f"{os.fspath(output)}: exists and is not a {kind.name}; choose another --output")
        if not overwrite:
            go_on = "go on with it by --resume, " if kind is RUN else ""
            raise OutputError(
                f"{os.fspath(output)}: holds a {kind.name} already; choose another --output, {go_on}or pass --overwrite"
            )
        storage.keep_inputs(output, inputs)
        with suppress(DamagedFileError, KeyError):  # a status that cannot be read is nobody's
            check_idle(folder, storage.read_json(folder / kind.marks[-1]), output)
    return folder


def set_aside(folder: Path, kind: Kind = RUN) -> None:
    """Clear the folder for a new run or search; the one that it holds is moved into a hidden folder in it.

    One that is there already stays, and not what took its place and was killed before it had come to anything.
    """
    aside = folder / _ASIDE
    if kind.is_in(aside):
        _clear(folder)
    elif folder.is_dir() and kind.is_in(folder):
        moving = folder / _MOVING
        moving.mkdir(exist_ok=True)
        _move(folder, moving)
        moving.rename(aside)


def put_back(folder: Path, on_event: Callable[[dict[str, Any]], None], kind: Kind = RUN) -> bool:
    """Delete the new one, put the old one in its place and tell so; false where none was set aside."""
    if not kind.is_in(folder / _ASIDE):
        return False
    _bring_back(folder)
    with suppress(OSError, SystemExit):  # of a terminal that has gone; SystemExit is rich's
        on_event({"kind": "put back"})
    return True


def mend(folder: Path, kind: Kind = RUN) -> None:
    """Bring to an end what a kill has cut short: a move aside is undone, one back is finished."""
    if kind.is_in(folder / _ASIDE) and not kind.is_in(folder):
        _bring_back(folder)
    else:
        _finish(folder)


def discard(folder: Path) -> None:
    """Delete what was set aside, if anything was."""
    gone = folder / _GONE
    shutil.rmtree(gone, ignore_errors=True)
    with suppress(FileNotFoundError):
        (folder / _ASIDE).rename(gone)  # at once, so that half of it is never taken for what is being set aside
    shutil.rmtree(gone, ignore_errors=True)


def _bring_back(folder: Path) -> None:
    _clear(folder)
    (folder / _ASIDE).rename(folder / _MOVING)
    _finish(folder)


def _finish(folder: Path) -> None:
    moving = folder / _MOVING
    if moving.is_dir():
        _move(moving, folder)
        moving.rmdir()


def _clear(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            if child.name != _ASIDE:
                shutil.rmtree(child)
        else:
            child.unlink()


def _move(old: Path, new: Path) -> None:
    for child in old.iterdir():
        if child.name not in (_ASIDE, _MOVING):
            child.rename(new / child.name)
