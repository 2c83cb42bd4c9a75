"""What a storage says when it fails, as one line of StorageError that tells how to mend it and holds no secret."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

import pyarrow as pa

from rayclf.errors import StorageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # what a write meets where no more can be written
_SAFE = r"region|scheme|endpoint_override|allow_\w+|retry_limit_seconds|tls_\w+"
# What the client libraries of the three stores write into their messages.
_NO_BUCKET = r"NO_SUCH_BUCKET|NoSuchBucket|ContainerNotFound|specified bucket does not exist|Bucket '.*' not found"
_REGION = r"HTTP status 301|PERMANENT_REDIRECT|AuthorizationHeaderMalformed"
_REFUSED = (
    r"ACCESS_DENIED|SIGNATURE|INVALID_ACCESS_KEY|CLIENT_TOKEN|TOKEN_ID|EXPIRED|UNRECOGNIZED_CLIENT|REQUEST_TIME"
    r"|HTTP status 4(00|01|03|12)|PERMISSION_DENIED|UNAUTHENTICATED|OAuth2|Authenticat|Authoriz"
)
_UNREACHABLE = r"NETWORK_CONNECTION|curlCode|CURL error|resolve host|REQUEST_TIMEOUT|Fail to get a new connection"
_BUSY = r"HTTP status (429|5\d\d)|SLOW_DOWN|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|THROTTLING|UNAVAILABLE"
_KEYS = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_APPLICATION_CREDENTIALS"),
    "abfs": ("AZURE_CLIENT_ID", "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"),
}


@contextmanager
def failures(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise what a storage raises in the block as StorageError, but for FileNotFoundError, which stays what it is."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise failure(path, error) from None


def failure(path: str | os.PathLike[str], error: Exception) -> StorageError:
    """The error to raise for what a storage raised: the address without secrets, what is wrong, how to mend it."""
    place = shown(path)
    if "://" not in place or place.startswith("file://"):
        words = redacted(str(error), path)
        system = re.search(r"\[[Ee]rrno \d+\] ([^:\[]+)", words.rpartition("Detail: ")[2])  # Arrow puts it at the end
        reason = system[1].strip() if system else words or type(error).__name__
        return StorageError(f"{place}: {reason}; check the path, the rights on it and the space on the disk")
    if isinstance(error, FileNotFoundError):
        return StorageError(f"{place}: no such file or folder; check the address")
    text = str(error)
    store = scheme(place)
    variable, keys = _KEYS.get(store, _KEYS["s3"])
    endpoint = redacted(os.environ.get("AWS_ENDPOINT_URL", ""), path) if store == "s3" else ""
    if re.search(_NO_BUCKET, text):
        return no_bucket(path)
    if re.search(_UNREACHABLE, text):
        server = f"the server {endpoint}" if endpoint else "the server"
        what = f"{server} cannot be reached or broke off; check the network"
        mend = " and AWS_ENDPOINT_URL" if store == "s3" else " and the address"
        return StorageError(f"{place}: {what}{mend}, then try again")
    if re.search(_REGION, text):
        return StorageError(f"{place}: the bucket is in another region; set AWS_DEFAULT_REGION")
    if re.search(_REFUSED, text):
        if "***@" in place:
            return StorageError(f"{place}: access refused; check the key and the secret in the address")
        if not (os.environ.get(variable) or os.environ.get("AWS_PROFILE")):
            return StorageError(f"{place}: access refused, no credentials in the environment; set {keys}")
        return StorageError(f"{place}: access refused; check {keys}, and their rights on the bucket")
    if re.search(_BUSY, text):
        return StorageError(f"{place}: the server failed or is busy; try again later")
    return StorageError(f"{place}: cannot be used ({redacted(text, path)[:300]}); check the address")


def no_bucket(path: str | os.PathLike[str]) -> StorageError:
    """The error to raise when what is missing is the whole bucket of ``path``."""
    asked = " and AWS_ENDPOINT_URL" if scheme(os.fspath(path)) == "s3" else ""
    return StorageError(f"{shown(path)}: the bucket does not exist; create it, or check its name{asked}")


def shown(path: str | os.PathLike[str]) -> str:
    """``path`` for messages: the keys in ``s3://key:secret@bucket/…`` and in options such as ``?token=…`` as ``***``.

    An unescaped ``/`` in a secret is common, so from a ``:`` on all goes, up to the last ``@``.
    """
    text = os.fspath(path)
    if "://" not in text:
        return text
    text = re.sub(r"^(s3://)[^/:@]*@|^(\w+://)[^/@?]*:.*@", lambda m: f"{m[1] or m[2]}***@", text, flags=re.DOTALL)
    text = re.sub(rf"([?&](?!(?:{_SAFE})=)[^=&/]*=)[^&]*", r"\1***", text)
    return re.sub(r"(endpoint_override=[^&]*?)[^&/=]*@", r"\1***@", text)


def redacted(text: str, path: str | os.PathLike[str]) -> str:
    """A library's words without the secrets of the address or the environment."""
    address = os.fspath(path)
    secrets = [os.environ.get(name, "") for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")]
    if "://" in address:
        text = text.replace(address, shown(address))
        named = re.match(r"\w+://[^/@?]*?:(.*)@", address, re.DOTALL)
        secrets += [named[1], unquote(named[1])] if named else []
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return " ".join(re.sub(r"(\w+://)[^/\s@]*@", r"\1***@", text).split())


def scheme(address: str) -> str:
    """The scheme of an address, one for each store: ``s3``, ``gs``, ``abfs``."""
    name = address.partition("://")[0]
    return {"gcs": "gs", "abfss": "abfs"}.get(name, name)
