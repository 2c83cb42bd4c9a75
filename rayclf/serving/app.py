"""The Ray Serve application: an HTTP ingress, and the models in its own process or in replicas that scale to zero.

With the models in the ingress' process a request crosses no process but Serve's proxy: fastest. Apart, replicas of
models may go to zero while the ingress, which needs no GPU, stays and holds the requests that wake them; and several
versions of the models may share the requests, so that one replaces the other without a request lost.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve import metrics as ray_metrics
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.deployment import Deployment
from ray.serve.handle import DeploymentHandle

import rayclf
from rayclf.serving.access import open_log
from rayclf.serving.answer import Answer, Endpoint
from rayclf.serving.autoscale import Gauge, Scaling
from rayclf.serving.batching import BatchReport
from rayclf.serving.keys import KeyStore
from rayclf.serving.limits import Limits, RateLimiter
from rayclf.serving.metrics import Metrics
from rayclf.serving.remote import RemoteModels, Version, VersionHeader
from rayclf.serving.settings import Settings as Settings
from rayclf.serving.settings import models_from, plain_models

if TYPE_CHECKING:
    from fastapi import FastAPI

    from rayclf.model.engine import Input

_ONGOING = 1000  # requests of a replica at once; the batcher refuses what would wait too long
_SHARED: dict[str, Any] = {
    "max_ongoing_requests": _ONGOING,
    "health_check_period_s": 10,
    "graceful_shutdown_timeout_s": 30.0,  # for the requests that a replica still has when it is to go
    "max_surge_percent": 25,  # a new replica is there before an old one goes
}
_DOORS = ("schedule", "key_store", "key_digest", "limits", "access_log", "wake_timeout_s")  # what the ingress goes by


class Models:
    """A replica that holds models; ready once the first of them has classified a text."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        self.metrics, self.gauge = Metrics(ray_metrics), Gauge()
        self.gauge.begin()  # it is not idle while it loads
        self.local = await _load(settings, self.metrics, self.gauge)
        # What was asked for of late, as many models as there is room for, is what Serve then sends to this replica.
        self.keep = serve.multiplexed(max_num_models_per_replica=settings.max_models or -1)(_named)
        self.gauge.end()

    async def answer(self, inputs: Sequence[Input], model: str | None, truncate: bool) -> Answer:
        """See :class:`~rayclf.serving.answer.Endpoint`."""
        answer: Answer
        self.gauge.begin()
        try:
            answer = await self.local.answer(inputs, model, truncate=truncate)
            if serve.get_multiplexed_model_id():
                await self.keep(answer.model)
        finally:
            self.gauge.end()
        return answer

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve asks for what :class:`~rayclf.serving.autoscale.Scaling` goes by."""
        return self.gauge.read()


async def _named(model: str) -> str:
    """What :class:`~rayclf.serving.host.Host` loads and lets go; Serve is told the name alone."""
    return model


@serve.ingress()
class Ingress:
    """HTTP in, answers out."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: Settings, *handles: DeploymentHandle
    ) -> None:
        self.settings, self.metrics = settings, Metrics(ray_metrics)
        self.remote: RemoteModels | None = None
        self.models: Endpoint
        if handles:
            wait = Limits.from_settings(settings.limits).request_timeout_s
            self.models = self.remote = RemoteModels(wait + (settings.wake_timeout_s if settings.sleeps else 0))
        else:
            self.models = await _load(settings, self.metrics)

    def reconfigure(self, told: Mapping[str, Any]) -> None:
        """Take the versions and shares of :func:`_shares`; Serve calls it at the start and when they change."""
        assert self.remote is not None
        self.remote.use([_version(**each) for each in told["versions"]])

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The HTTP application, which Serve asks for once the models are there."""
        from rayclf.serving.guarded import Guarded
        from rayclf.serving.http import make_api
        from rayclf.serving.keyring import Keyring
        from rayclf.serving.schedule import Schedule

        told = self.settings
        limits = Limits.from_settings(told.limits)
        store = KeyStore(told.key_store) if told.key_store else None
        keyring = Keyring(store, told.key_digest, required=bool(store or told.key_digest))
        schedule = Schedule.parse(told.schedule) if told.schedule else None
        guarded = Guarded(self.models, limits, schedule, self.metrics)
        rates = RateLimiter(processes=told.ingresses)
        api = make_api(guarded, keyring, limits, self.metrics, open_log(told.access_log), tell_id=False, rates=rates)
        api.add_middleware(VersionHeader)
        return api


async def _load(settings: Settings, metrics: Metrics, gauge: Gauge | None = None) -> Any:
    import torch

    from rayclf.serving.local import LocalModels

    torch.set_num_threads(settings.threads)

    def report(batch: BatchReport) -> None:
        metrics.batch(batch)
        if gauge is not None:
            gauge.batch(batch.queue_seconds, batch.compute_seconds)

    local = LocalModels(
        settings.models,
        max_models=settings.max_models,
        timeout_s=Limits.from_settings(settings.limits).request_timeout_s,
        settings={"precision": settings.precision, "runtime": settings.runtime},
        report=report,
    )
    await local.start()
    assert local.batcher is not None
    metrics.watch(lambda: local.batcher.counters, local.host.counters)  # type: ignore[union-attr]
    return local


@dataclass(frozen=True)
class Part:
    """A version in an application: its number, what it serves, and the percentage of requests that it gets."""

    number: str
    settings: Settings
    share: float = 100.0


def application(settings: Settings) -> serve.Application:
    """The application that ``serve.run`` and ``serve deploy`` take."""
    if settings.apart or settings.sleeps:
        return versioned([Part("", settings)], settings)
    return _ingress().options(ray_actor_options=_resources(settings)).bind(settings)


def versioned(parts: Sequence[Part], doors: Settings) -> serve.Application:
    """One ingress before several versions, the first of which is the main one; keys, limits and schedule are those of
    ``doors``. Run again with others it changes what differs: versions of the same number go on untouched, and the
    ingress takes new shares without a restart."""
    front = _ingress().options(
        ray_actor_options={"num_cpus": 0}, user_config=_shares(parts), num_replicas=doors.ingresses
    )
    if parts[0].number:
        told = json.dumps([doors.plain()[name] for name in _DOORS] + [doors.sleeps, doors.ingresses])
        front = _pinned(front, hashlib.sha256(told.encode()).hexdigest()[:12])
    return front.bind(doors, *(_models(part) for part in parts))


def from_config(args: dict[str, Any]) -> serve.Application:
    """The application of a Serve config file: ``import_path: rayclf.serving.app:from_config`` and :class:`Settings` as
    its ``args``. Raises ConfigError for an unknown one."""
    return application(Settings.from_plain(args))


def _ingress() -> Deployment:
    return serve.deployment(Ingress).options(name="Ingress", **_SHARED)


def _models(part: Part) -> serve.Application:
    settings = part.settings
    models = serve.deployment(Models).options(
        name=_deployment(part.number),
        autoscaling_config=_scaling(settings),
        ray_actor_options=_resources(settings),
        **_SHARED,
    )
    return (_pinned(models, part.number) if part.number else models).bind(settings)


def _scaling(settings: Settings) -> AutoscalingConfig:
    least, most = settings.replicas
    quiet_s = settings.inactive_timeout_s
    policy = {"least": least, "inactive_timeout_s": quiet_s, "schedule": settings.schedule}
    return AutoscalingConfig(
        min_replicas=0 if settings.sleeps else least,
        initial_replicas=max(least, 1),  # a version has to load before it gets requests
        max_replicas=most,
        upscale_delay_s=2,
        downscale_delay_s=max(quiet_s, 30.0),
        downscale_to_zero_delay_s=0,  # the policy has waited already
        look_back_period_s=2,
        metrics_interval_s=1,
        policy=AutoscalingPolicy(policy_function=Scaling, policy_kwargs=policy),
    )


def _resources(settings: Settings) -> dict[str, float]:
    return {"num_gpus": settings.gpus} if settings.gpus else {"num_cpus": 1}


def _pinned(deployment: Deployment, version: str) -> Deployment:
    """Say that the replicas of the same version need no restart. Serve does this for config files by a hash of them,
    and else restarts all replicas of an application at each change; the argument is its own, hence its mark."""
    return deployment.options(version=f"{rayclf.__version__}-{version}", _internal=True)


def _deployment(number: str) -> str:
    return f"Models-v{number}" if number else "Models"


def _shares(parts: Sequence[Part]) -> dict[str, Any]:
    """What the ingress has to know of the versions, as JSON."""
    told = [{"number": p.number, "models": plain_models(p.settings.models), "share": p.share} for p in parts]
    return {"versions": told}


def _version(number: str, models: Mapping[str, str] | str, share: float) -> Version:
    handle = serve.get_deployment_handle(_deployment(number))  # of this application
    found = models_from(models)
    several = isinstance(models, str) or len(models) > 1

    async def ask(inputs: list[Input], model: str | None, truncate: bool) -> Answer:
        # To a replica that has the model, where one has; a name that is not served is for any of them to refuse.
        to = handle.options(multiplexed_model_id=model) if several and model is not None and model in found else handle
        answer: Answer = await to.answer.remote(inputs, model, truncate)
        return answer

    return Version(number, found, ask, share)
