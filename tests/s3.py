"""A real S3 server for tests: OpenStack Swift with its S3 interface, on the loopback alone unless told otherwise, and a
relay that fails.

Swift lives in a virtual environment of its own, ``.venv-s3`` beside ``.venv``, made once (65 MB).
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from filelock import FileLock
from pyarrow import fs

ENVIRONMENT = Path(__file__).resolve().parents[1] / ".venv-s3"
PACKAGES = ("swift==2.38.3", "eventlet==0.41.3", "pyeclib==1.8.0", "xattr==1.3.0", "lxml==6.1.3", "PasteDeploy==3.1.0")
KINDS = ("account", "container", "object", "proxy")
FILTERS = {  # in the order a request goes through them
    "catch_errors": "",
    "gatekeeper": "",
    "listing_formats": "",
    "s3api": "location = us-east-1\nmax_upload_part_num = 10000\n",
    "tempauth": "user_test_tester = testing .admin\n",
    "bulk": "",
    "copy": "",
    "slo": "max_manifest_segments = 10000\n",
    "dlo": "",
    "versioned_writes": "allow_object_versioning = true\n",
    "symlink": "",
}
SERVER = """[DEFAULT]
bind_ip = {address}
bind_port = {port}
user = {user}
swift_dir = {root}
devices = {root}/node
mount_check = false
fallocate_reserve = 0
workers = 0
log_level = WARNING
[pipeline:main]
pipeline = {pipeline}
[app:{kind}-server]
use = egg:swift#{kind}
node_timeout = 60
container_update_timeout = 60
account_autocreate = true
recoverable_node_timeout = 60
error_suppression_limit = 1000000
"""
RINGS = """import sys
from swift.common.ring import RingBuilder
for kind, port in zip(sys.argv[2::2], sys.argv[3::2]):
    ring = RingBuilder(4, 1, 0)  # 2**4 partitions, 1 replica
    ring.add_dev(dict(id=0, region=1, zone=1, weight=1, ip="127.0.0.1", port=int(port), device="d1"))
    ring.rebalance()
    ring.get_ring().save(f"{sys.argv[1]}/{kind}.ring.gz")
"""
# Swift calls setsid(), so that no signal of the terminal reaches it: the kernel ends it with its parent.
LAUNCH = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])"
NO_NETWORK = re.compile(r"from versions: none|Failed to establish|Name or service not known|unreachable|ProxyError")


class NoServer(Exception):
    """Swift cannot be installed, for want of a network."""


def install(environment: Path = ENVIRONMENT) -> Path:
    """The virtual environment with Swift, made if it is missing or not whole; raises NoServer without a network."""
    ready = environment / "ready"  # written last
    with FileLock(environment.with_name(f"{environment.name}.lock")):  # several test processes may come at once
        _install(environment, ready)
    return environment


def _install(environment: Path, ready: Path) -> None:
    if not ready.exists() or ready.read_text() != "\n".join(PACKAGES):
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        command = [environment / "bin/python", "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *PACKAGES]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            if NO_NETWORK.search(done.stderr):
                raise NoServer(f"no network to install Swift from: {done.stderr.strip().splitlines()[-1]}")
            raise RuntimeError(f"Swift cannot be installed:\n{done.stderr}")
        ready.write_text("\n".join(PACKAGES))


def _scratch() -> Path:
    """A folder with extended attributes, which Swift needs: the one in memory, where fsync costs nothing, or /tmp."""
    for place in ("/dev/shm", tempfile.gettempdir()):
        try:
            with tempfile.NamedTemporaryFile(dir=place) as file:
                os.setxattr(file.name, "user.probe", b"x" * 500)
            return Path(tempfile.mkdtemp(prefix="swift-s3-", dir=place))
        except OSError:
            continue
    raise RuntimeError("no folder with user xattrs for Swift: neither /dev/shm nor the temporary folder has them")


class S3Server:
    """``with S3Server() as s3``: started in 2 to 3 seconds, gone at the end or with its parent.

    ``address`` is where its door listens, what is behind it on the loopback.
    """

    access_key, secret_key, region = "test:tester", "testing", "us-east-1"

    def __init__(self, address: str = "127.0.0.1") -> None:
        self._bin, self._address = install() / "bin", address
        self._processes: list[subprocess.Popen[bytes]] = []
        self._buckets = 0

    def __enter__(self) -> S3Server:
        self._root = _scratch()
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        (self._root / "node/d1").mkdir(parents=True)
        doors = [socket.create_server((self._at(kind), 0)) for kind in KINDS]
        ports = {kind: door.getsockname()[1] for kind, door in zip(KINDS, doors, strict=True)}
        for door in doors:
            door.close()
        self.endpoint = f"http://{self._address}:{ports['proxy']}"
        (self._root / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = tests\n[storage-policy:0]\nname = default\ndefault = yes\n"
        )
        rings = [str(word) for kind in KINDS[:3] for word in (kind, ports[kind])]
        subprocess.run([self._bin / "python", "-c", RINGS, self._root, *rings], check=True)
        for kind in KINDS:
            self._processes.append(self._launch(kind, ports[kind]))
        end = time.monotonic() + 60
        for kind, port in ports.items():
            while not _answers(port, self._at(kind)):
                if time.monotonic() > end or any(process.poll() is not None for process in self._processes):
                    logs = "\n".join((self._root / f"{kind}.log").read_text() for kind in KINDS)
                    raise RuntimeError(f"Swift did not start:\n{logs}")
                time.sleep(0.05)

    def _at(self, kind: str) -> str:
        return self._address if kind == "proxy" else "127.0.0.1"

    def _launch(self, kind: str, port: int) -> subprocess.Popen[bytes]:
        filters = FILTERS if kind == "proxy" else {}
        config = self._root / f"{kind}-server.conf"
        pipeline = " ".join([*filters, f"{kind}-server"])
        config.write_text(
            SERVER.format(
                kind=kind,
                address=self._at(kind),
                port=port,
                user=getpass.getuser(),
                root=self._root,
                pipeline=pipeline,
            )
            + "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n{extra}" for name, extra in filters.items())
        )
        command = [sys.executable, "-c", LAUNCH, self._bin / f"swift-{kind}-server", config, "-v"]
        with open(self._root / f"{kind}.log", "wb") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._root, ignore_errors=True)

    def variables(self) -> Mapping[str, str]:
        """The environment in which ``s3://`` means this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def filesystem(self) -> fs.S3FileSystem:
        """Arrow's own way to this server, whatever the environment says, to lay out what a test needs and look."""
        return fs.S3FileSystem(
            access_key=self.access_key,
            secret_key=self.secret_key,
            region=self.region,
            endpoint_override=self.endpoint,
            allow_bucket_creation=True,
            allow_delayed_open=True,
        )

    def new_bucket(self) -> str:
        """The name of a new, empty bucket."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self.filesystem().create_dir(name)
        return name


def _answers(port: int, address: str = "127.0.0.1") -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=1):
            return True
    except urllib.error.HTTPError as error:  # any HTTP answer will do
        error.close()
        return True
    except OSError:
        return False


class Relay:
    """``with Relay(endpoint) as relay``: passes connections on, counts requests, and breaks off when told to.

    ``cut_down``: break a connection once that many bytes of answers went through it, the next ``cuts`` times.
    ``die_up``: once that many bytes of requests went through in all, break everything and answer nobody any more.
    """

    def __init__(self, endpoint: str, cut_down: int = 0, cuts: int = 0, die_up: int = 0) -> None:
        self._target = (urlsplit(endpoint).hostname, urlsplit(endpoint).port)
        self._cut_down, self._cuts, self._die_up = cut_down, cuts, die_up
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._sent_up = 0
        self._dead = False
        self.requests = self.broken = 0

    def __enter__(self) -> Relay:
        self._door = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._die()

    def _die(self) -> None:
        with self._lock:
            self._dead = True
            ends = [self._door, *self._open]
        for end in ends:
            _shut(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._door.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return  # the relay is at its end
            with self._lock:
                self._open |= {client, server}
                dead = self._dead
            if dead:
                self._close(client, server)
                return
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(server, client), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        tail = b""
        try:
            while data := client.recv(2**16):
                with self._lock:
                    self.requests += (tail + data).count(b" HTTP/1.1\r\n")
                    self._sent_up += len(data)
                    fatal = bool(self._die_up) and self._sent_up > self._die_up
                    self.broken += fatal
                tail = data[-10:]  # shorter than what is counted
                if fatal:
                    self._die()
                    break
                server.sendall(data)
        except OSError:
            pass
        self._close(client, server)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        passed = 0
        try:
            while data := server.recv(2**16):
                passed += len(data)
                with self._lock:
                    cut = passed > self._cut_down and self._cuts > 0
                    self._cuts -= cut
                    self.broken += cut
                if cut:
                    client.sendall(data[: len(data) // 2])
                    break
                client.sendall(data)
        except OSError:
            pass
        self._close(client, server)

    def _close(self, *ends: socket.socket) -> None:
        for end in ends:
            _shut(end)
        with self._lock:
            self._open -= set(ends)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits on it, which close() alone does not
    end.close()
