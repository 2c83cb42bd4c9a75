"""One exception tree. Every message is a single line that names the flag, field, file or row to mend."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SECRET = re.compile(r"://[^/@\s]+:[^@\s]*@")


def one_line(error: BaseException, limit: int | None = 300) -> str:
    """What another library says, as a part of a message of ours: one line of at most ``limit`` characters.

    Of an error without a message its type's name. The password of an address is hidden before the line is cut.
    """
    return _hide_passwords(" ".join(str(error).split()))[:limit] or type(error).__name__


def _hide_passwords(text: str) -> str:
    """``text`` without the keys and secrets of addresses such as s3://key:secret@bucket."""
    return _SECRET.sub("://***@", text)


class RayclfError(Exception):
    """Anything rayclf raises on purpose; the command line exits with 1."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        # Names of files, columns and labels go into messages and may hold line breaks of their own.
        super().__init__(_hide_passwords(" ".join(message.splitlines())))


class UserError(RayclfError):
    """A mistake the user can mend; the command line prints it on one line and exits with 2."""

    exit_code = 2


class ConfigError(UserError):
    """A field of the YAML file, a ``--set`` or a flag is unknown or has a wrong value."""


class DataError(UserError):
    """A data file, one of its columns or one of its rows cannot be used."""


class AmbiguousColumn(DataError):
    """Several columns could hold the text or the label; ``flag`` says which one to choose with."""

    def __init__(self, message: str, flag: str, candidates: Sequence[str]) -> None:
        super().__init__(message)
        self.flag = flag
        self.candidates = tuple(candidates)

    def __reduce__(self) -> tuple[type[AmbiguousColumn], tuple[str, str, tuple[str, ...]]]:
        return type(self), (str(self), self.flag, self.candidates)


class LabelError(UserError):
    """Labels that do not fit the label space, or a label space that cannot be trained on."""


class BackboneError(UserError):
    """The backbone is not there, is not whole, or is not one that rayclf can put a head on."""


class ArtifactError(UserError):
    """A folder that is not an artifact, is damaged, or does not fit its backbone."""


class StorageError(UserError):
    """A disk or an object store refuses, cannot be reached, or has no such bucket."""


class DamagedFileError(UserError, ValueError):
    """A file of rayclf's own that is no longer what was written; a ValueError too, as that of whatever parsed it."""


class OutputError(UserError):
    """The output place cannot be used."""


class ResourceError(UserError):
    """The machine or cluster has not what the job asks for."""
