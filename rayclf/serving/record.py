"""What was deployed: one JSON file a deployment, with every version it ever had, so that nothing depends on a cluster.

The files lie in ``deployments/`` of ``$RAYCLF_HOME``, which may be in an object store, or of ``~/.rayclf``. They hold
no key. One person or program at a time should change a deployment: Serve itself takes only one change at a time.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from rayclf import storage
from rayclf.errors import ConfigError, StorageError
from rayclf.serving.keys import HOME_VARIABLE
from rayclf.storage_errors import shown

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label, so that it may become a host's or service's


class Options(BaseModel):
    """What a version was asked to be; all but the artifact has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    artifact: str
    model: str | None = None
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    runtime: Literal["auto", "torch", "onnx"] = "auto"
    replicas: tuple[int, int] = (1, 1)
    inactive_timeout_s: float = Field(300.0, ge=1)
    schedule: str | None = None
    max_models: int | None = Field(None, ge=1)
    gpus_per_replica: float | None = Field(None, ge=0)
    keys: bool | None = None  # by the address
    access_log: str = ""
    limits: dict[str, Any] = {}


class Numbered(BaseModel):
    """A version: when and by whom it was made, the number of the one it took the place of, and where its models lie:
    by name, or the folder that holds them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    created: AwareDatetime
    by: str
    replaced: int | None = None
    options: Options
    models: dict[str, str] | str


class Record(BaseModel):
    """A deployment: its route, its versions, and the percentage of requests that each version in service gets, the
    main one first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    route: str
    host: str
    port: int
    versions: list[Numbered] = []
    shares: dict[int, float] = {}

    @property
    def main(self) -> Numbered:
        """The version that most requests get, unless a trial is larger."""
        return self.version(next(iter(self.shares)))

    @property
    def trial(self) -> Numbered | None:
        """The version beside it that is being tried out."""
        numbers = list(self.shares)
        return self.version(numbers[1]) if len(numbers) > 1 else None

    def version(self, number: int) -> Numbered:
        """One version by its number."""
        return next(version for version in self.versions if version.number == number)

    def with_version(self, options: Options, share: float, models: dict[str, str] | str) -> Self:
        """The record with one more version, which gets ``share`` percent and the main one the rest; a trial ends."""
        main = next(iter(self.shares), None)
        number = max((version.number for version in self.versions), default=0) + 1
        now = datetime.now(UTC).replace(microsecond=0)
        new = Numbered(number=number, created=now, by=_user(), replaced=main, options=options, models=models)
        shares = {number: 100.0} if main is None or share >= 100 else {main: 100 - share, number: share}
        return self.model_copy(update={"versions": [*self.versions, new], "shares": shares})

    def promoted(self, share: float) -> Self:
        """The record with another share for the version on trial; raises ConfigError when there is none."""
        if self.trial is None:
            raise ConfigError(f"{self.name}: no version is on trial; deploy one with --traffic below 100")
        main, trial = self.main.number, self.trial.number
        shares = {trial: 100.0} if share >= 100 else {main: 100 - share, trial: share}
        return self.model_copy(update={"shares": shares})

    def rolled_back(self) -> Self:
        """The record without the version on trial, or with the version before; raises ConfigError at the first."""
        if self.trial is not None:
            return self.model_copy(update={"shares": {self.main.number: 100.0}})
        if self.main.replaced is None:
            raise ConfigError(f"{self.name}: version {self.main.number} has none before it to go back to")
        return self.model_copy(update={"shares": {self.main.replaced: 100.0}})


def check_name(name: str) -> None:
    """Raise ConfigError for a name that cannot be part of an address."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"NAME {name[:80]!r}: must be 1 to 63 of a-z, 0-9 and '-', such as tickets")


def folder() -> str:
    """Where the files lie."""
    home = os.environ.get(HOME_VARIABLE) or os.path.join(os.path.expanduser("~"), ".rayclf")
    return storage.join(home, "deployments")


def read(name: str) -> Record | None:
    """The record of a deployment; None when there is none. Raises StorageError for a damaged one, ConfigError."""
    check_name(name)
    path = storage.join(folder(), f"{name}.json")
    try:
        return Record.model_validate(storage.read_json(path))
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError) as error:
        what = error.errors()[0]["msg"].lower() if isinstance(error, ValidationError) else "not JSON"
        raise StorageError(f"{shown(path)}: not the record of a deployment ({what}); mend or delete it") from None


def write(record: Record) -> None:
    """Keep a record, whole or not at all; raises StorageError."""
    storage.write_json(storage.join(folder(), f"{record.name}.json"), record.model_dump(mode="json"))


def forget(name: str) -> None:
    """Delete the record of a deployment."""
    storage.delete_files([storage.join(folder(), f"{name}.json")])


def names() -> list[str]:
    """All deployments that have a record."""
    try:
        found = [entry.name for entry in storage.entries(folder())]
    except FileNotFoundError:
        return []
    return [name.removesuffix(".json") for name in found if name.endswith(".json")]


def _user() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (OSError, KeyError):  # in a container without a name for its user
        return socket.gethostname()
