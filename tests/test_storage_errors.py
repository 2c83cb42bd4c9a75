"""What a storage says when it fails: one line, without a secret."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf import storage
from rayclf.errors import StorageError, UserError
from rayclf.storage_errors import failure, failures, shown


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("a:b@c/x?token=1", "a:b@c/x?token=1"),
        ("s3://bucket/a@b:c.csv", "s3://bucket/a@b:c.csv"),
        ("s3://KEY:secret@bucket/x", "s3://***@bucket/x"),
        ("s3://KEY@bucket/x", "s3://***@bucket/x"),
        ("s3://KEY:se/cr@et@bucket/x", "s3://***@bucket/x"),
        ("s3://KEY:secret@bucket/x?region=eu&token=abc", "s3://***@bucket/x?region=eu&token=***"),
        ("s3://b/x?endpoint_override=http://k:s@host:1", "s3://b/x?endpoint_override=http://***@host:1"),
        ("abfs://container@account.dfs.core.windows.net/x", "abfs://container@account.dfs.core.windows.net/x"),
        ("abfs://container:key==@account.dfs.core.windows.net/x", "abfs://***@account.dfs.core.windows.net/x"),
        ("s3://b/day=?/x.csv", "s3://b/day=?/x.csv"),
    ],
)
def test_shown(address, told):
    assert shown(address) == told


@given(st.text(st.characters(codec="ascii", exclude_characters="?\0"), min_size=4, max_size=40).map(lambda s: f"<{s}>"))
def test_no_error_ever_holds_the_secret_of_an_address(secret):
    address = f"s3://KEY:{secret}@bucket/x"
    assert secret not in shown(address)
    for words in (f"Cannot parse URI: '{address}'", f"bad secret {secret} given", "ACCESS_DENIED", "NO_SUCH_BUCKET"):
        assert secret not in str(failure(address, OSError(words)))
    with pytest.raises(UserError) as error:  # '<' is never taken as it stands
        storage.resolve(address)
    assert secret not in str(error.value)


@pytest.mark.parametrize(
    ("address", "words", "told"),
    [
        ("s3://b/x", "AWS Error NETWORK_CONNECTION during HeadObject: curlCode: 6", "cannot be reached"),
        ("s3://b/x", "AWS Error UNKNOWN (HTTP status 301) during HeadObject operation", "set AWS_DEFAULT_REGION"),
        ("s3://b/x", "AWS Error SLOW_DOWN during GetObject operation", "busy; try again later"),
        ("s3://b/x", "AWS Error UNKNOWN (HTTP status 503) during GetObject operation", "busy; try again later"),
        ("s3://b/x", "AWS Error NO_SUCH_UPLOAD:\nodd", "cannot be used (AWS Error NO_SUCH_UPLOAD: odd)"),
        ("gs://b/x", "Status(UNAVAILABLE: Could not create a OAuth2 access token …)", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gs://b/x", "Status(UNAVAILABLE: PerformWork() - CURL error [7])", "cannot be reached"),
        ("abfs://b@a.dfs.core.windows.net/x", "Failed to get token: AuthenticationException", "AZURE_CLIENT_SECRET"),
    ],
)
def test_failures_of_object_stores(address, words, told, monkeypatch):
    for name in ("AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_ID"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StorageError) as error, failures(address):
        raise pa.ArrowException(words)
    assert str(error.value).startswith(f"{address}: ")
    assert told in str(error.value)
