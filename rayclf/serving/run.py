"""Start the endpoint on this machine or cluster, and take it down."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rayclf.cluster import connect, cores
from rayclf.errors import ArtifactError, ResourceError, UserError
from rayclf.model.info import find_artifact, is_remote, read_info, verify
from rayclf.serving import tracing
from rayclf.serving.access import VARIABLE as LOG_VARIABLE
from rayclf.serving.access import open_log
from rayclf.serving.keys import KeyStore, default_store, digest_of
from rayclf.serving.schedule import Schedule

if TYPE_CHECKING:
    from rayclf.model.runtime import Precision, RuntimeName

APP = "rayclf"
KEY_VARIABLE = "RAYCLF_API_KEY"


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
    runtime: RuntimeName = "auto",
    max_models: int | None = None,
    schedule: str | None = None,
    keys: bool = False,
) -> Server:
    """Serve an artifact over HTTP and return once it answers; the endpoint lives as long as this process.

    ``artifact`` may also be a folder of artifacts or runs, each a model of its folder's name: they are loaded when a
    request first names them, those that share a backbone onto one copy of it, and no more than ``max_models`` stay in
    memory. ``model`` is the name in answers: the run's folder name when unset. Outside of ``schedule``, such as
    ``Mon-Fri 08:00-20:00 Europe/Berlin``, requests are answered with 503.

    ``keys`` asks for the API keys of ``rayclf keys``; beyond the loopback address one is always asked for, of those or
    the one in ``RAYCLF_API_KEY``. With ``RAYCLF_ACCESS_LOG`` set to a file, each request leaves a line there. Raises
    UserError when there is no key, OutputError, ResourceError when the port is taken, ArtifactError.
    """
    models = find_models(artifact, model)
    store = default_store()
    wanted = keys or not is_loopback(host)
    key = os.environ.get(KEY_VARIABLE, "")
    stored = bool(KeyStore(store).list()) if wanted else False
    if wanted and not key and not stored:
        why = "--keys: there are no keys" if keys else f"--host {host}: others could use the endpoint"
        raise UserError(f"{why}; make one with 'rayclf keys create NAME', or set {KEY_VARIABLE}")
    if schedule is not None:
        Schedule.parse(schedule)  # a mistake in it shows before Ray starts
    told = os.environ.get(LOG_VARIABLE, "")
    access_log = told if told in ("", "0", "1") else os.path.abspath(told)  # replicas may run in another folder
    open_log(access_log)  # the same
    tracing.are_wanted()  # the same
    import ray
    from ray import serve as ray_serve

    if not ray.is_initialized():
        check_port(host, port)  # before Ray takes seconds to start
    connect()
    from ray.serve.config import HTTPOptions
    from ray.serve.schema import LoggingConfig

    from rayclf.serving.app import Settings, application

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # importing Serve has just set it to INFO

    gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    quiet = LoggingConfig(log_level="ERROR", enable_access_log=False)
    _end_idle_serve()
    check_port(host, port)
    ray_serve.start(http_options=HTTPOptions(host=host, port=port), logging_config=quiet)
    settings = Settings(
        models,
        precision=precision,
        runtime=runtime,
        max_models=max_models,
        schedule=schedule,
        key_store=store if stored else None,
        key_digest=digest_of(key) if key else "",
        threads=cores(),
        gpus=gpus,
        access_log=access_log,
    )
    ray_serve.run(application(settings), name=APP, route_prefix="/", logging_config=quiet)
    shown = f"[{host}]" if ":" in host else host
    return Server(f"http://{shown}:{port}", next(iter(models)))


def find_models(artifact: str | os.PathLike[str], name: str | None = None) -> Mapping[str, str]:
    """The models of an artifact, a run, or a folder of them, by name; raises ArtifactError where there is none."""
    from rayclf.serving.host import ModelFolder

    place = Path(artifact)
    try:
        found = find_artifact(artifact)
    except ArtifactError:
        folder = ModelFolder(place)
        if is_remote(artifact) or not place.is_dir() or not len(folder):
            raise
        return folder
    verify(found, read_info(found))
    if name is None:
        name = (place.parent if place.name == "artifact" else place).resolve().name
    return {name: os.fspath(artifact) if is_remote(artifact) else str(found)}


def _end_idle_serve() -> None:
    """A Serve instance keeps its port for life: end one that has nothing to serve, refuse to touch a busy one."""
    from ray import serve as ray_serve

    status = ray_serve.status()
    if status.applications:
        names = ", ".join(status.applications)
        raise ResourceError(f"Ray Serve already serves {names} here; stop it, or start another cluster")
    if status.proxies:
        ray_serve.shutdown()


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_port(host: str, port: int) -> None:
    """Raise ResourceError for a port that another program holds; Ray would wait a long time for it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ResourceError(
                f"--port {port}: cannot listen on {host}:{port} ({error.strerror}); choose another"
            ) from None
