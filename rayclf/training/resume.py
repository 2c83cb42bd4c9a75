"""An interrupted run: whether it can go on, and under which settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayclf import storage
from rayclf.config import Config
from rayclf.errors import ConfigError, OutputError
from rayclf.training.heartbeat import is_heard, last_beat
from rayclf.training.run import RUN, Run

# What may be given anew when a run goes on: it changes how the rest is done, and not what comes out.
_FREE = {
    "resources", "output", "evaluation.samples", "evaluation.resamples", "train.strategy", "train.offload",
    "train.batching", "train.gradient_checkpointing", "train.micro_batch_tokens", "train.checkpoint_steps",
    "train.keep_checkpoints", "train.max_failures",
}  # fmt: skip


def interrupted(output: str | os.PathLike[str]) -> Run | None:
    """The run in ``output``, None when there is none.

    Raises OutputError while another process is at it, UserError when what it has on record cannot be read.
    """
    folder = storage.local_path(output, "--output")
    if not RUN.is_in(folder):
        return None
    run = Run(folder)
    check_idle(folder, run.status, output)
    _ = run.config, run.lines  # read in vain, so that damage is told before anything is done
    return run


def check_idle(folder: Path, status: Mapping[str, Any], output: str | os.PathLike[str]) -> None:
    """Raise OutputError, which names the folder as ``output``, while another process is at the run or search there.

    ``status`` has its ``state``, ``host`` and ``pid``.
    """
    if status["state"] == "running" and _trains(folder, status["host"], status["pid"]):
        where = f"process {status['pid']} on {status['host']}"
        raise OutputError(f"{os.fspath(output)}: {where} is training there; stop it first")


def _trains(folder: Path, host: str, pid: int) -> bool:
    """Whether the process that wrote the status still works.

    Its number alone does not say so: on another host it cannot be looked for, and in a container that has started
    again something else soon has the same one. So its signs of life are listened to, where it gives any.
    """
    here = host == os.uname().nodename
    if here and not _lives(pid):
        return False
    return here if last_beat(folder) is None else is_heard(folder)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def check_same(run: Run, data: str | os.PathLike[str], test: str | os.PathLike[str] | None, settings: Config) -> None:
    """Raise ConfigError when what is asked for is not what the run began with; unset fields ask for nothing."""
    status = run.status
    for name, value in (("data", data), ("test", test)):
        if value is not None and not _same_place(value, status[name]):
            raise ConfigError(
                f"--resume: the run was begun with {name} {status[name]}, not {os.fspath(value)}; give that, or "
                "another --output"
            )
    for path, value, before in _differences(settings, run.config):
        raise ConfigError(
            f"--resume: {path} is {value} and the run was begun with {before}; leave it out, or give another --output"
        )


def _same_place(path: str | os.PathLike[str], begun: str | None) -> bool:
    """Whether both are one place, by whatever path: relative, absolute, over a link."""
    if begun is None or os.fspath(path) == begun:
        return begun is not None
    if "://" in f"{os.fspath(path)}{begun}":
        return False
    return os.path.realpath(os.path.expanduser(path)) == os.path.realpath(os.path.expanduser(begun))


def _differences(asked: Any, begun: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for name in asked.model_fields_set:
        place = f"{path}.{name}".lstrip(".")
        value, before = getattr(asked, name), getattr(begun, name)
        if place in _FREE or value == before:
            continue
        found += _differences(value, before, place) if hasattr(value, "model_fields_set") else [(place, value, before)]
    return found


def go_on(run: Run, asked: Config) -> Config:
    """The settings that the run began with, and of ``asked`` what may be given anew."""
    tree: dict[str, Any] = run.config.model_dump()
    for section in asked.model_fields_set:
        for name in getattr(asked, section).model_fields_set:
            if section in _FREE or f"{section}.{name}" in _FREE:
                tree[section][name] = getattr(getattr(asked, section), name)
    return Config.model_validate(tree)


def prepared_folder(run: Run) -> Path | str | None:
    """Where the run's prepared data is; None when it was interrupted before they were written."""
    from rayclf.data.dataset import is_dataset

    if (run.folder / "data").is_dir() and is_dataset(run.folder):
        return run.folder
    return run.status["data"] if is_dataset(run.status["data"]) else None
