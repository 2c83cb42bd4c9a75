"""``rayclf --address … train …``: the same command on a cluster, as a Ray job whose log is followed from here."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import rayclf
from rayclf.errors import ConfigError, RayclfError, ResourceError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

FLAG = "--address"
# The others are for this machine: they open a port here, ask questions, or read what lies here.
COMMANDS = ("data", "train", "tune", "evaluate", "score", "deploy", "deployments", "export", "runs", "info")
_ENV = {
    "RAY_JOB_STOP_WAIT_TIME_S": "300",  # how long ray job stop waits for a checkpoint; Ray's own 3 s are too few
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHONUNBUFFERED": "1",
}
_LEFT_OUT = (".git", ".venv", "__pycache__", "/runs/")


def take_address(words: list[str]) -> tuple[str | None, list[str]]:
    """The value of ``--address`` anywhere before a ``--``, and the words without it; the last one counts."""
    address: str | None = None
    rest: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--":
            return address, [*rest, word, *left]
        name, equals, value = word.partition("=")
        if name != FLAG:
            rest.append(word)
        elif not (address := value if equals else next(left, "")):
            raise ConfigError(f"{FLAG}: needs an address, such as http://127.0.0.1:8265")
    return address, rest


def submit(address: str, words: list[str]) -> int:
    """Run ``rayclf WORDS`` as a job of the cluster at ``address`` and print its log; returns its exit code.

    The folder at hand is sent along, without what ``.gitignore`` names, and so is rayclf itself: the cluster needs no
    more than rayclf's dependencies. Ctrl-C stops watching, not the job. Raises ConfigError for an address or a command
    that cannot be, ResourceError where the cluster cannot be reached or refuses.
    """
    if not address.startswith(("http://", "https://", "ray://")):
        raise ConfigError(f"{FLAG} {address}: must begin with http://, https:// or ray://")
    command = next((word for word in words if not word.startswith("-")), None)
    if command not in COMMANDS:
        what = f"'{command}' runs on this machine" if command else "there is no command to run"
        raise ConfigError(f"{FLAG}: {what}; on a cluster run one of {', '.join(COMMANDS)}")
    client = _connect(address)
    entrypoint = shlex.join(["python", "-m", "rayclf.cli.main", *words])
    environment = {
        "working_dir": os.getcwd(),
        "py_modules": [str(Path(rayclf.__file__).parent)],
        "excludes": list(_LEFT_OUT),
        "env_vars": _ENV,
    }
    try:
        job = client.submit_job(entrypoint=entrypoint, runtime_env=environment)
    except (RuntimeError, ValueError) as error:
        raise ResourceError(f"{FLAG} {address}: the job was not taken ({_first(error)})") from None
    print(f"job {job}; 'ray job stop {job}' ends it, Ctrl-C here does not", file=sys.stderr, flush=True)
    return _follow(client, job)


def _connect(address: str) -> JobSubmissionClient:
    if importlib.util.find_spec("aiohttp") is None:
        raise ResourceError(f"{FLAG}: submitting jobs needs more of Ray; pip install 'ray[default]'")
    # Ray would take these in the place of an address that was given.
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        mend = "set RAY_AUTH_MODE=token and give the cluster's token in RAY_AUTH_TOKEN or ~/.ray/auth_token"
        raise ResourceError(f"{FLAG} {address}: the cluster refuses the token or asks for one; {mend}") from None
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ResourceError(f"{FLAG} {address}: cannot be reached ({_first(error)}); check address and port") from None


def _follow(client: JobSubmissionClient, job: str) -> int:
    from ray.job_submission import JobStatus

    async def tail() -> None:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)

    try:
        asyncio.run(tail())
    except RuntimeError as error:  # the connection broke
        mend = f"'ray job logs {job} --follow' goes on"
        raise ResourceError(f"job {job}: its log broke off ({_first(error)}); {mend}") from None
    found = client.get_job_info(job)
    if found.status == JobStatus.SUCCEEDED:
        return 0
    if found.driver_exit_code is None:  # killed or stopped, or never begun
        raise RayclfError(f"job {job}: {found.status.lower()} ({_first(found.message or 'Ray tells no reason')})")
    return int(found.driver_exit_code)


def _first(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
