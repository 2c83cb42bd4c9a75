"""Where a new run goes, and what becomes of the run that it replaces.

An old run is kept aside, in the same folder, until the new one has made a step: what only the workers can find, such as
a metric of the user's that raises or too little memory, is found late, and days of training are not to be lost for it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from rayclf import storage
from rayclf.errors import DamagedFileError, OutputError
from rayclf.training.resume import check_idle
from rayclf.training.run import Run, is_run

_ASIDE = ".replaced"
_LAST = ("config.yaml", "status.json")  # what makes a folder a run


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
    output: str | os.PathLike[str], overwrite: bool, inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> Path:
    """The folder for a new run.

    Raises OutputError when it holds something else, or a run and not ``overwrite``, or one that is being trained, or
    with that run one of the ``inputs``.
    """
    folder = place_for(output, "run")
    if folder.is_dir() and any(folder.iterdir()):
        if not is_run(folder):
            raise OutputError(f"{os.fspath(output)}: exists and is not a run; choose another --output")
        if not overwrite:
            raise OutputError(
                f"{os.fspath(output)}: holds a run already; choose another --output, go on with it by --resume, or "
                "pass --overwrite"
            )
        storage.keep_inputs(output, inputs)
        with suppress(DamagedFileError, KeyError):  # a status that cannot be read is nobody's
            check_idle(Run(folder), output)
    return folder


def set_aside(folder: Path) -> None:
    """Clear the folder for a new run; a run that it holds is moved into a hidden folder in it.

    One that is there already stays, and not what took its place and was killed before its first step.
    """
    aside = folder / _ASIDE
    if is_run(aside):
        _clear(folder)
    elif folder.is_dir() and is_run(folder):
        aside.mkdir(exist_ok=True)
        _move(folder, aside)


def put_back(folder: Path) -> bool:
    """Delete the new run and put the old one in its place; false where none was set aside."""
    aside = folder / _ASIDE
    if not is_run(aside):
        return False
    _clear(folder)
    _move(aside, folder)
    aside.rmdir()
    return True


def discard(folder: Path) -> None:
    """Delete what was set aside, if anything was."""
    shutil.rmtree(folder / _ASIDE, ignore_errors=True)


def _clear(folder: Path) -> None:
    for child in folder.iterdir():
        if child.is_dir() and not child.is_symlink():
            if child.name != _ASIDE:
                shutil.rmtree(child)
        else:
            child.unlink()


def _move(old: Path, new: Path) -> None:
    # A run that was set aside in part is one that still is to be.
    for child in sorted(old.iterdir(), key=lambda child: (child.name in _LAST, child.name)):
        if child.name != _ASIDE:
            child.rename(new / child.name)
