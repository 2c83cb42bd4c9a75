"""Connect to Ray: the cluster this process belongs to, or a small one of its own on this machine."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path

from rayclf import errors
from rayclf.errors import RayclfError, ResourceError, one_line

# How processes run on a local Ray, above all those of Serve; cluster/Dockerfile says the same for clusters.
_SERVE = {
    # A proxy that died is found after three looks; Serve looks every 10 s by default.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    # One event loop a process. Serve has a second one for endpoints that compute in it; rayclf's do so in threads of
    # their own, and each request would change loops for nothing.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # A process of Serve has some forty threads. With glibc's arena for each of up to 8 a core they keep what was freed:
    # memory grows with the requests, by 0.9 KiB each from 20,000 to 40,000 of them; Python's objects stay the same.
    "MALLOC_ARENA_MAX": "2",
    # A body without end is refused, and what is lost with a process gets a 503, not a 500.
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "rayclf.serving.proxy:middlewares",
}
_own = False  # whether connect() started the Ray of this process


def connect() -> None:
    """Make Ray ready in this process; does nothing when it is already.

    Inside ``ray job submit``, or with ``RAY_ADDRESS`` set, that cluster is joined. Otherwise a local one starts; it is
    told of one CPU more than there are, because reading and tokenizing are short tasks that must never wait for the
    long ones which hold a CPU each.
    """
    import ray

    global _own
    if ray.is_initialized():
        return
    _own = False
    # Reports reach the trainer when it polls its workers: every 2 s by default, which a small run would feel.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # Workers that find no room are counted anew after 60 s by default; where there is room they find it at once.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a local Ray reports to nobody unless asked to
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    on_stop = signal.getsignal(signal.SIGTERM)
    if address:
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ResourceError(
                f"RAY_ADDRESS={address}: no cluster answers there ({str(error).splitlines()[0]})"
            ) from None
    else:
        _own = True
        for name, value in _SERVE.items():
            os.environ.setdefault(name, value)
        try:
            # Nobody takes this machine away under Ray's eyes, and to watch for it is a process, two seconds.
            with _own_groups(), _variables(RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0"):
                ray.init("local", num_cpus=cores() + 1, include_dashboard=False, **quiet)
        except Exception as error:  # Ray has no error of its own for it; it gives its parts 15 s to answer each other
            reason = one_line(error)
            raise ResourceError(f"Ray did not start on this machine; is it very busy? ({reason})") from error
    if callable(on_stop) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_stop)  # Ray has just put a handler there that aborts the process
    token = Path.home() / ".ray" / "auth_token"
    if token.is_file() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)  # Ray leaves the cluster's token readable for everybody
    quiet_data()


@contextmanager
def _own_groups() -> Iterator[None]:
    """Processes that begin in this block lead process groups of their own. What a shell's ``kill %1``, ``timeout`` or a
    closed terminal sends to the whole group of this process then reaches no part of Ray, without which no checkpoint
    could be written. Of Ctrl-C alone does Ray guard them; they still end with this process."""
    begin = subprocess.Popen.__init__
    subprocess.Popen.__init__ = partialmethod(begin, process_group=0)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = begin  # type: ignore[method-assign]


@contextmanager
def _variables(**values: str) -> Iterator[None]:
    """Environment variables of processes that begin in this block alone, and of theirs. What is set already stays."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


def adopt(own: bool) -> None:
    """Tell this process, a worker of Ray, whether the Ray that it belongs to is a local one: see :func:`is_own`."""
    global _own
    _own = own


def is_own() -> bool:
    """Whether the Ray of this process is a local one that :func:`connect` started, or else a cluster that it joined."""
    return _own


def quiet_data() -> None:
    """Keep Ray Data's progress bars and logs off the terminal, which rayclf draws on itself."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in ("ray.data", "ray.train", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def native_stderr_to(file: str | os.PathLike[str]) -> Iterator[None]:
    """Send what native code writes to stderr in this block to ``file``: Ray's core prints notes on its actors there,
    in the midst of a progress bar, and no setting of its own keeps them away without silencing its log files."""
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with open(file, "ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(before, 2)
        os.close(before)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpu_memory() -> int:
    """Bytes of one GPU of the cluster, as a worker would get it."""
    import ray

    def look() -> int:
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory)

    # max_calls: the process goes, and gives the GPU back.
    return int(ray.get(ray.remote(num_gpus=1, max_calls=1)(look).remote()))


def require_cpus(needed: float, what: str, mend: str) -> None:
    """Raise ResourceError when the whole cluster has fewer CPUs than ``what`` needs: Ray would wait for ever."""
    import ray

    there = ray.cluster_resources().get("CPU", 0)
    if there < needed:
        raise ResourceError(f"{what} needs {needed:g} CPUs and the cluster has {there:g}; {mend}")


def root_cause(error: BaseException, what: str) -> RayclfError:
    """The rayclf error that a Ray process met, of its own class; else one line that says how ``what`` failed.

    Ray wraps errors in many layers, some of which keep only the text of the traceback, so the text is what is read.
    """
    told = [*map(str, (getattr(error, "worker_failures", None) or {}).values()), str(error), str(error.__cause__ or "")]
    for text in told:
        found = re.findall(r"rayclf\.errors\.(\w+): (.+)", text)
        if found:
            name, message = found[-1]
            return getattr(errors, name, RayclfError)(message.strip())
    lines = [line.strip() for line in told[0].splitlines() if line.strip()]
    return RayclfError(f"{what} failed: {lines[-1] if lines else type(error).__name__}")
