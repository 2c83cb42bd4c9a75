"""One deployment on a Ray cluster: from the versions that are there to those that should be, and how it is.

A deployment is one Serve application. A new version starts beside the old one; when it has loaded, the ingress turns
the requests over to it, all or a part, and only then does the old one go, after it has answered what it has: no request
waits for a model to load, none is lost. That takes room for both for a moment.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rayclf.cluster import adopt, connect, root_cause
from rayclf.errors import ResourceError, UserError
from rayclf.serving import record as records
from rayclf.serving.keys import default_store
from rayclf.serving.record import Options, Record
from rayclf.serving.run import check_port, is_loopback
from rayclf.serving.settings import Settings, models_from

if TYPE_CHECKING:
    from rayclf.serving.app import Part

HOST, PORT = "127.0.0.1", 8000


@dataclass(frozen=True)
class VersionStatus:
    """A version in service: its part of the requests in percent, and its replicas by Serve's states."""

    number: int
    artifact: str
    share: float
    created: str
    by: str
    status: str
    replicas: dict[str, int]


@dataclass(frozen=True)
class Deployment:
    """A deployment as it is now; ``status`` is Serve's, or ``NOT_STARTED`` where the cluster does not have it."""

    name: str
    url: str
    status: str
    message: str
    schedule: str | None
    versions: tuple[VersionStatus, ...]

    def public(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def connect_cluster() -> None:
    """Join the Ray cluster of ``RAY_ADDRESS`` or of this machine, never one of this process' own, which would end with
    it. Raises ResourceError when there is none."""
    import ray

    if ray.is_initialized():
        return
    if os.environ.get("RAY_ADDRESS"):
        return connect()
    try:
        ray.init("auto", log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError:
        raise ResourceError(
            "no Ray cluster runs here; start one with 'ray start --head', or name one in RAY_ADDRESS"
        ) from None
    adopt(own=False)


def start_serve(host: str | None, port: int | None) -> tuple[str, int]:
    """Start Serve where it does not run; the host and port at which it listens, those asked for or others."""
    from ray import serve
    from ray.serve.config import HTTPOptions
    from ray.serve.context import _get_global_client

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # importing Serve has just set it to INFO
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        return client.http_config.host, client.http_config.port
    options = HTTPOptions(host=host or HOST, port=port or PORT)
    check_port(options.host, options.port)
    serve.start(http_options=options, logging_config=_quiet())
    return options.host, options.port


def reached(record: Record) -> Record:
    """The record with the address that Serve has on the cluster that is joined here; raises ResourceError."""
    connect_cluster()
    host, port = start_serve(record.host, record.port)
    return record.model_copy(update={"host": host, "port": port})


def asks_for_keys(options: Options, host: str) -> bool:
    """Whether requests need a key: as it was said, else where others than this machine can reach the address."""
    return not is_loopback(host) if options.keys is None else options.keys


def change(old: Record, new: Record) -> Deployment:
    """From the versions and shares of one record to those of the other, without a request lost."""
    from ray import serve

    there = old.shares if application(old.name) is not None else {}
    try:
        for shares in steps(there, new.shares):
            run(new, shares)
    except UserError:
        if there:
            run(old, there)
        else:
            serve.delete(old.name)
        raise
    records.write(new)
    return status_of(new)


def steps(there: Mapping[int, float], wanted: Mapping[int, float]) -> list[dict[int, float]]:
    """The shares, by version, to go through from those that are ``there`` to those ``wanted``.

    New versions start and get no request yet; then shares change; then those that get none go.
    """
    if not there:
        return [dict(wanted)]
    both = {number: there.get(number, 0.0) for number in [*there, *wanted]}
    found = [dict(there), both, {number: wanted.get(number, 0.0) for number in [*wanted, *both]}, dict(wanted)]
    return [after for before, after in itertools.pairwise(found) if after != before]


def run(record: Record, shares: Mapping[int, float]) -> None:
    """Bring the application to these versions and shares, and return when all of it runs."""
    from ray import serve
    from ray.serve.exceptions import RayServeException

    from rayclf.serving.app import versioned

    parts = [_part(record, number, share) for number, share in shares.items()]
    doors = _part(record, list(record.shares)[-1], 0).settings  # of the newest, in all steps
    try:
        serve.run(versioned(parts, doors), name=record.name, route_prefix=record.route, logging_config=_quiet())
    except (RuntimeError, RayServeException) as error:
        cause = root_cause(error, f"deploying {record.name}")
        raise ResourceError(str(cause)) if not isinstance(cause, UserError) else cause from None


def _part(record: Record, number: int, share: float) -> Part:
    from rayclf.serving.app import Part

    version = record.version(number)
    told = version.options
    settings = Settings(
        models_from(version.models),
        precision=told.precision,
        runtime=told.runtime,
        replicas=told.replicas,
        inactive_timeout_s=told.inactive_timeout_s,
        schedule=told.schedule,
        max_models=told.max_models,
        key_store=default_store() if asks_for_keys(told, record.host) else None,
        limits=told.limits,
        access_log=told.access_log,
        gpus=told.gpus_per_replica or 0.0,
    )
    return Part(str(number), settings, share)


def status_of(record: Record) -> Deployment:
    """How it is, by what Serve says of it on the cluster that is joined."""
    found = application(record.name)
    deployments = found.deployments if found else {}
    versions = []
    for number, share in record.shares.items():
        version, there = record.version(number), deployments.get(f"Models-v{number}")
        versions.append(
            VersionStatus(
                number,
                version.options.artifact,
                share,
                version.created.isoformat(),
                version.by,
                there.status.value if there else "NOT_STARTED",
                {getattr(state, "value", str(state)): n for state, n in there.replica_states.items()} if there else {},
            )
        )
    host = f"[{record.host}]" if ":" in record.host else record.host
    url = f"http://{host}:{record.port}{record.route}".rstrip("/")
    state = found.status.value if found else "NOT_STARTED"
    return Deployment(
        record.name, url, state, found.message if found else "", record.main.options.schedule, tuple(versions)
    )


def _quiet() -> Any:
    from ray.serve.schema import LoggingConfig

    return LoggingConfig(log_level="ERROR", enable_access_log=False)


def application(name: str) -> Any:
    """Serve's word on a deployment; None when it has none that could answer."""
    from ray import serve

    found = serve.status().applications.get(name)
    return None if found is None or found.status.value in ("DELETING", "NOT_STARTED") else found
