"""Start the endpoint on this machine or cluster, and take it down."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rayclf.cluster import connect, cores
from rayclf.errors import ResourceError, UserError
from rayclf.model.info import find_artifact, read_info, verify

if TYPE_CHECKING:
    from rayclf.model.runtime import Precision

APP = "rayclf"


@dataclass(frozen=True)
class Server:
    """A running endpoint; as a context manager it stops at the end of the block."""

    url: str
    model: str

    def stop(self) -> None:
        """Take the endpoint down; requests that run are answered first. Other applications of the cluster stay."""
        from ray import serve

        serve.delete(APP)

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    artifact: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    model: str | None = None,
    precision: Precision = "auto",
) -> Server:
    """Serve an artifact over HTTP and return once it answers; the endpoint lives as long as this process.

    ``model`` is the name in answers: the run's folder name when unset. Beyond the loopback address a key is needed:
    set ``RAYCLF_API_KEY``. Raises UserError when it is missing, ResourceError when the port is taken, ArtifactError.
    """
    folder = find_artifact(artifact)
    verify(folder, read_info(folder))
    if not _is_loopback(host) and not os.environ.get("RAYCLF_API_KEY"):
        raise UserError(
            f"--host {host}: others could use the endpoint; set RAYCLF_API_KEY to a key that they must send"
        )
    import ray
    from ray import serve as ray_serve

    if not ray.is_initialized():
        _check_port(host, port)  # before Ray takes seconds to start
    connect()
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from rayclf.serving.app import application

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # importing Serve has just set it to INFO

    name = model or (folder.parent if folder.name == "artifact" else folder).name
    gpu = bool(ray.cluster_resources().get("GPU", 0))
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    _end_idle_serve()
    _check_port(host, port)
    ray_serve.start(http_options=HTTPOptions(host=host, port=port), logging_config=quiet)
    app = application(folder, name, precision=precision, threads=cores(), gpu=gpu)
    ray_serve.run(app, name=APP, route_prefix="/", logging_config=quiet)
    shown = f"[{host}]" if ":" in host else host
    return Server(f"http://{shown}:{port}", name)


def _end_idle_serve() -> None:
    """A Serve instance keeps its port for life: end one that has nothing to serve, refuse to touch a busy one."""
    from ray import serve as ray_serve

    status = ray_serve.status()
    if status.applications:
        names = ", ".join(status.applications)
        raise ResourceError(f"Ray Serve already serves {names} here; stop it, or start another cluster")
    if status.proxies:
        ray_serve.shutdown()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_port(host: str, port: int) -> None:
    """Ray would wait a long time for a port that another program holds."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"--port {port}: cannot listen on {host}:{port} ({error.strerror}); choose another"
            ) from None
