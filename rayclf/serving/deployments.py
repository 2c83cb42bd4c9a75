"""Endpoints on a Ray cluster, which outlive the command: deploy, update, try out, roll back, delete, bring back.

What was asked for is kept in :mod:`rayclf.serving.record`, so that a new cluster can be brought to the same state; how
a cluster comes to it is in :mod:`rayclf.serving.rollout`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from rayclf.errors import ConfigError, ResourceError, UserError
from rayclf.model.info import is_remote
from rayclf.serving import record as records
from rayclf.serving import rollout
from rayclf.serving.access import VARIABLE
from rayclf.serving.keys import KeyStore, default_store
from rayclf.serving.limits import Limits
from rayclf.serving.record import Options, Record
from rayclf.serving.rollout import Deployment as Deployment
from rayclf.serving.run import find_models
from rayclf.serving.schedule import Schedule
from rayclf.serving.settings import plain_models

_FLAGS = {"inactive_timeout_s": "--inactive-timeout", "gpus_per_replica": "--gpus-per-replica"}


def deploy(
    name: str,
    artifact: str | os.PathLike[str] | None = None,
    *,
    traffic: float = 100,
    route: str | None = None,
    host: str | None = None,
    port: int | None = None,
    **options: Any,
) -> Deployment:
    """Deploy an artifact as ``name`` on the Ray cluster that is there, or a new version of it; returns once it answers.

    ``options`` are those of :class:`~rayclf.serving.record.Options`: precision, runtime, replicas (fewest, most),
    inactive_timeout_s, schedule, max_models, gpus_per_replica, keys, model, limits. What is not given stays as it was,
    the artifact too. ``traffic`` is the percentage of requests that the new version gets. ``route`` is ``/NAME``.
    ``host`` and ``port``, 127.0.0.1 and 8000, belong to the cluster's Serve and are settled by the first deployment.

    A version that does not start leaves the one before in service. Raises ConfigError, ArtifactError, ResourceError.
    """
    before = records.read(name)
    chosen = _options(name, before, os.fspath(artifact) if artifact is not None else None, options)
    _check_keys(chosen, host or (before.host if before else rollout.HOST))
    if not 0 < traffic <= 100:
        raise ConfigError(f"--traffic {traffic:g}: must be above 0 and at most 100 percent")
    if traffic < 100 and before is None:
        raise ConfigError(f"--traffic {traffic:g}: {name} has no version yet to share the requests with; leave it out")
    if before is not None and route is not None and route != before.route:
        raise ConfigError(f"--route {route}: {name} is at {before.route}; delete it first, or take another name")
    route = route or (before.route if before else f"/{name}")
    if not route.startswith("/") or (route != "/" and route.endswith("/")):
        raise ConfigError(f"--route {route}: must begin with '/' and not end with it")
    models = plain_models(find_models(chosen.artifact, chosen.model or name))  # a single one is called NAME
    rollout.connect_cluster()
    chosen = _with_gpus(chosen)
    _check_route(name, route)
    at = rollout.start_serve(host, port)
    for flag, asked, there in (("--host", host, at[0]), ("--port", port, at[1])):
        if asked is not None and asked != there:
            what = f"Ray Serve listens on {at[0]}:{at[1]} on this cluster already"
            raise ResourceError(f"{flag} {asked}: {what}; leave it out, or run 'serve shutdown' first")
    _check_keys(chosen, at[0])
    old = before or Record(name=name, route=route, host=at[0], port=at[1])
    old = old.model_copy(update={"host": at[0], "port": at[1]})
    return rollout.change(old, old.with_version(chosen, traffic, models))


def promote(name: str, traffic: float = 100) -> Deployment:
    """Give the version on trial ``traffic`` percent of the requests; with 100 the other one goes."""
    if not 0 < traffic <= 100:
        raise ConfigError(f"--traffic {traffic:g}: must be above 0 and at most 100 percent")
    _known(name).promoted(traffic)  # what is wrong with it shows before Ray is looked for
    old = rollout.reached(_known(name))
    return rollout.change(old, old.promoted(traffic))


def rollback(name: str) -> Deployment:
    """End the trial of a version; where there is none, go back to the version before the one in service."""
    _known(name).rolled_back()
    old = rollout.reached(_known(name))
    return rollout.change(old, old.rolled_back())


def status(name: str) -> Deployment:
    """How a deployment is; raises ConfigError when there is none of that name."""
    old = _known(name)
    rollout.connect_cluster()
    return rollout.status_of(old)


def list_deployments() -> list[Deployment]:
    """All deployments that were recorded, on the cluster or not."""
    found = [record for name in records.names() if (record := records.read(name)) is not None]
    if found:
        rollout.connect_cluster()
    return [rollout.status_of(record) for record in found]


def delete(name: str) -> None:
    """Take a deployment off the cluster, requests that run being answered first, and forget its versions."""
    _known(name)
    rollout.connect_cluster()
    from ray import serve

    if name in serve.status().applications:
        serve.delete(name)
    records.forget(name)


def restore(name: str | None = None) -> list[Deployment]:
    """Bring deployments, or the one, back on a cluster that has lost them; those that are there are left alone."""
    found = [_known(each) for each in ([name] if name is not None else records.names())]
    if not found:
        return []
    rollout.connect_cluster()
    restored = []
    for record in found:
        if rollout.application(record.name) is None:
            record = rollout.reached(record)
            rollout.run(record, record.shares)
            records.write(record)
        restored.append(rollout.status_of(record))
    return restored


def _options(name: str, before: Record | None, artifact: str | None, given: Mapping[str, Any]) -> Options:
    """What the new version is asked to be: what is given over what the one before was."""
    records.check_name(name)
    changes = {key: value for key, value in given.items() if value is not None}
    if VARIABLE in os.environ:
        changes.setdefault("access_log", os.environ[VARIABLE])
    if artifact is not None:  # the cluster's other processes have another working directory
        changes["artifact"] = artifact if is_remote(artifact) else os.path.abspath(os.path.expanduser(artifact))
    elif before is None:
        raise ConfigError(f"ARTIFACT: missing; there is no deployment '{name}' yet, so say what it is to serve")
    known = before.main.options.model_dump() if before else {}
    try:
        chosen = Options.model_validate(known | changes)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        flag = _FLAGS.get(field, f"--{field.replace('_', '-')}")
        raise ConfigError(f"{flag}: {first['msg'][0].lower()}{first['msg'][1:]} (it is {first['input']!r})") from None
    least, most = chosen.replicas
    if not 0 <= least <= most or most < 1:
        raise ConfigError(f"--replicas {least},{most}: must be the fewest and the most, such as 0,4")
    if chosen.schedule is not None and Schedule.parse(chosen.schedule).always:
        chosen = chosen.model_copy(update={"schedule": None})
    Limits.from_settings(chosen.limits)
    return chosen


def _check_keys(options: Options, host: str) -> None:
    if rollout.asks_for_keys(options, host) and not KeyStore(default_store()).list():
        raise UserError("no API key to let anybody in; make one with 'rayclf keys create NAME', or give --no-keys")


def _with_gpus(options: Options) -> Options:
    """The options with the GPUs of a replica settled; raises ResourceError when the cluster has not as many."""
    import ray

    there = ray.cluster_resources().get("GPU", 0)
    wanted = options.gpus_per_replica
    if wanted is None:
        return options.model_copy(update={"gpus_per_replica": 1.0 if there else 0.0})
    if wanted > there:
        raise ResourceError(f"--gpus-per-replica {wanted:g}: the cluster has {there:g} GPUs; give fewer, or add nodes")
    return options


def _check_route(name: str, route: str) -> None:
    """Refuse a route that another application has; Serve says so only after a while."""
    from ray import serve

    for other in serve.status().applications:
        known = records.read(other) if other in records.names() else None
        if known is not None and other != name and known.route == route:
            raise ConfigError(f"--route {route}: belongs to the deployment '{other}'; choose another")


def _known(name: str) -> Record:
    record = records.read(name)
    if record is None:
        known = ", ".join(records.names())
        raise ConfigError(f"{name}: no such deployment; " + (f"there are {known}" if known else "there are none yet"))
    return record
