"""The network of the tests: hosts for Ray, a store with S3 and Redis, and what all share. Jobs come from this machine.

Each node has the object store's keys in its environment and the token in a file, as a cluster's nodes have. Jobs bring
rayclf along in their working directory; there is no other copy of it on the path of the nodes.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hosts import Network
from s3 import S3Server

ROOT = Path(__file__).parents[2]
REDIS = 6380
NAMES = ("head", "worker-1", "worker-2", "store", "worker-3", "worker-4")
STORE = """import sys
from s3 import S3Server
with S3Server(sys.argv[1]) as server:
    print(server.endpoint, flush=True)
    sys.stdin.read()
"""


class Lab:
    """The network, its store and what is shared: ``with Lab(folder) as lab``. Raises NoServer without Swift."""

    def __init__(self, folder: Path) -> None:
        self.s3 = S3Server()  # of which only the client's side is used here
        self.folder, self.network = folder, Network(folder / "hosts", NAMES)
        self.project, self._token = folder / "project", folder / "token"
        shutil.copytree(ROOT / "jobs", self.project / "jobs")
        shutil.copytree(ROOT / "rayclf", self.project / "rayclf", ignore=shutil.ignore_patterns("__pycache__"))
        self._token.touch(mode=0o600)
        self._token.write_text(secrets.token_hex(32))
        self.clusters = 0

    def __enter__(self) -> Lab:
        try:
            self._store = self.network.host("store")
            env = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
            words = (sys.executable, "-c", STORE, self._store.address)
            self._server = self._store.start(*words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            assert self._server.stdout is not None
            self.s3.endpoint = self._server.stdout.readline().decode().strip()
            assert self.s3.endpoint, (self._store.folder / "log").read_text()
            self.bucket = f"s3://{self.s3.new_bucket()}"
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (server := getattr(self, "_server", None)) is not None:
            server.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                server.wait(20)
        self.network.__exit__(kind, error, trace)

    @property
    def token(self) -> str:
        """What lets one in."""
        return self._token.read_text()

    @property
    def env(self) -> dict[str, str]:
        """The environment of nodes, and of those who send them jobs."""
        dropped = ("RAY_", "AWS_", "PYTEST", "PYTHON", "COV_")
        return {name: value for name, value in os.environ.items() if not name.startswith(dropped)} | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self._token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
            "RAY_prestart_worker_first_driver": "0",  # one for each CPU that a node is said to have
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "RAYCLF_CACHE": "/tmp/ray/artifacts",  # each host has its own
            **self.s3.variables(),
        }

    def redis(self) -> str:
        """Start Redis on the store, once; its address."""
        if not hasattr(self, "_redis"):
            words = ("redis-server", "--port", str(REDIS), "--bind", self._store.address, "--protected-mode", "no")
            self._redis = self._store.start(*words, "--save", "", "--dir", self._store.folder, env=os.environ)
        return f"{self._store.address}:{REDIS}"
