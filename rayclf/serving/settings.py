"""What an endpoint serves and to whom: the one description that every way to start it fills in. No Ray here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from rayclf.errors import ConfigError
from rayclf.model.runtime import Precision, RuntimeName


@dataclass(frozen=True)
class Settings:
    """What an application serves and to whom.

    ``models`` are artifacts by name, of which the first answers requests that name none; at most ``max_models`` of them
    are in memory of one replica. ``key_store`` is the file of API keys, ``key_digest`` the SHA-256 of one more; with
    neither, everybody is let in. ``replicas`` are the fewest and the most: with 0 the models go after
    ``inactive_timeout_s`` without a request, and a request that wakes them waits up to ``wake_timeout_s``. Outside of
    ``schedule`` there are no replicas and requests are refused. ``gpus`` and ``threads`` are of a replica.
    ``access_log`` is what :func:`~rayclf.serving.access.open_log` takes.
    """

    models: Mapping[str, str]
    precision: Precision = "auto"
    runtime: RuntimeName = "auto"
    replicas: tuple[int, int] = (1, 1)
    inactive_timeout_s: float = 300.0
    wake_timeout_s: float = 600.0
    schedule: str | None = None
    max_models: int | None = None
    key_store: str | None = None
    key_digest: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    gpus: float = 0.0
    access_log: str = ""

    @classmethod
    def from_plain(cls, given: Mapping[str, Any], where: str = "args") -> Self:
        """The settings that :meth:`plain` wrote, or that a person wrote for a Serve config file.

        ``models`` may be a local folder of artifacts, ``replicas`` one number. Raises ConfigError naming ``where`` and
        the field.
        """
        known = [each.name for each in fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigError(f"{where}.{name}: unknown; known are {', '.join(known)}")
        if not given.get("models"):
            raise ConfigError(f"{where}.models: missing; name the artifacts, such as {{tickets: s3://bucket/tickets}}")
        replicas = given.get("replicas", (1, 1))
        pair = (replicas, replicas) if isinstance(replicas, int) else tuple(replicas)
        if len(pair) != 2 or not all(isinstance(n, int) for n in pair) or not 0 <= pair[0] <= pair[1] or pair[1] < 1:
            raise ConfigError(f"{where}.replicas: {list(pair)} is not the fewest and the most, such as [0, 4]")
        return cls(**{**given, "models": models_from(given["models"]), "replicas": pair})

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        told = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "models"}
        return {
            **told,
            "models": plain_models(self.models),
            "replicas": list(self.replicas),
            "limits": dict(self.limits),
        }

    @property
    def apart(self) -> bool:
        """Whether models have replicas of their own, which come and go."""
        return self.replicas != (1, 1)

    @property
    def ingresses(self) -> int:
        """How many processes take requests: two where several replicas may answer, that a node which dies takes no more
        than the requests it has."""
        return 2 if self.replicas[1] > 1 else 1

    @property
    def sleeps(self) -> bool:
        """Whether there may be no replica at all."""
        return self.replicas[0] == 0 or self.schedule is not None


def plain_models(models: Mapping[str, str]) -> dict[str, str] | str:
    """Models as JSON has them: a folder, whose models may become more, as its path."""
    folder = getattr(models, "folder", None)  # of a ModelFolder, whose module brings PyTorch with it
    return dict(models) if folder is None else str(folder)


def models_from(plain: Mapping[str, str] | str) -> Mapping[str, str]:
    """What :func:`plain_models` wrote."""
    if not isinstance(plain, str):
        return dict(plain)
    from rayclf.serving.host import ModelFolder

    return ModelFolder(Path(plain))
