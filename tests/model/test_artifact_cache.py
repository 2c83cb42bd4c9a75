"""Artifacts in a real object store: fetched once, whole or not at all, anew when they change."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs
from s3 import Relay, S3Server
from tiny import TEXTS, Made
from typer.testing import CliRunner

from rayclf.cli.main import app
from rayclf.data.texts import TextSource
from rayclf.errors import ArtifactError, StorageError
from rayclf.model.artifact_cache import fetch_artifact
from rayclf.model.engine import Classifier
from rayclf.model.info import find_artifact, read_info, verify
from rayclf.scoring.job import make_job
from rayclf.scoring.scorer import UnitScorer
from rayclf.scoring.units import look_at

Make = Callable[..., Made]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this node, empty."""
    monkeypatch.setenv("RAYCLF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bucket(s3: S3Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new bucket, with the environment that finds its server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3.variables().items():
        monkeypatch.setenv(name, value)
    return s3.new_bucket()


@pytest.fixture
def put(s3: S3Server) -> Callable[[Path, str], str]:
    """A function that copies a folder to ``bucket/path`` and gives its address."""

    def of(folder: Path, place: str) -> str:
        fs.copy_files(str(folder), place, destination_filesystem=s3.filesystem())
        return f"s3://{place}"

    return of


@pytest.fixture(scope="module")
def artifact(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make("bert", tuning="head", reads=TextSource(text="text"))
    return made.save(tmp_path_factory.mktemp("here") / "artifact")


def contents(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def drafts(cache: Path) -> list[str]:
    return [path.name for path in cache.rglob("*.tmp")]


def test_an_artifact_a_run_or_a_search(bucket: str, put: Any, artifact: Path, cache: Path) -> None:
    for place in ("plain", "runs/x/artifact", "searches/y/best/artifact"):
        put(artifact, f"{bucket}/{place}")
    names = {"plain": "plain", "runs/x": "x/artifact", "runs/x/artifact": "x/artifact", "searches/y/": "best/artifact"}
    for place, name in names.items():
        folder = find_artifact(f"s3://{bucket}/{place}")
        assert folder.relative_to(cache).as_posix().partition("/")[2] == name
        assert contents(folder) == contents(artifact)
    assert drafts(cache) == []


def test_the_classifier_and_the_command_line(bucket: str, put: Any, artifact: Path) -> None:
    address = put(artifact, f"{bucket}/a b/artifact").replace(" ", "%20")
    expected = Classifier.load(artifact).probabilities(TEXTS)
    np.testing.assert_array_equal(Classifier.load(address).probabilities(TEXTS), expected)
    done = CliRunner().invoke(app, ["info", address, "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout)["tuning"] == "head"


def test_what_is_here_is_not_fetched_again(
    s3: S3Server, bucket: str, put: Any, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = put(artifact, f"{bucket}/x")
    fingerprint = hashlib.sha256((artifact / "rayclf.json").read_bytes()).hexdigest()
    with Relay(s3.endpoint) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        first = fetch_artifact(address)
        whole = relay.requests
        assert whole > len(read_info(artifact).files)
        assert fetch_artifact(address) == first
        again = relay.requests - whole
        assert 1 <= again <= 2  # of the description alone
        assert fetch_artifact(address, fingerprint) == first
        assert relay.requests == whole + again
        (first / "head.safetensors").unlink()
        assert fetch_artifact(address, fingerprint) == first
        assert contents(first) == contents(artifact)


def test_a_changed_artifact_is_fetched_anew(bucket: str, put: Any, make: Make, artifact: Path, tmp_path: Path) -> None:
    address = put(artifact, f"{bucket}/x")
    before = fetch_artifact(address)
    other = make("bert", tuning="head", seed=8).save(tmp_path / "other")
    put(other, f"{bucket}/x")
    after = fetch_artifact(address)
    assert (contents(before), contents(after)) == (contents(artifact), contents(other))
    shutil.rmtree(before)
    with pytest.raises(ArtifactError, match=f"{address}: has been replaced by another artifact meanwhile"):
        fetch_artifact(address, before.parent.name)


def test_processes_of_one_node_fetch_once(
    s3: S3Server, bucket: str, put: Any, artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = put(artifact, f"{bucket}/x")
    with Relay(s3.endpoint) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        fetch_artifact(address)
        alone = relay.requests
        shutil.rmtree(cache)
        with ThreadPoolExecutor(4) as pool:
            folders = set(pool.map(fetch_artifact, [address] * 4))
        assert relay.requests - alone <= alone + 3 * 2
    (folder,) = folders
    verify(folder, read_info(folder))
    assert drafts(cache) == []


@pytest.mark.parametrize("how", ["missing", "damaged", "outside"])
def test_what_is_not_whole_is_refused_and_leaves_nothing(
    s3: S3Server, bucket: str, put: Any, artifact: Path, cache: Path, how: str
) -> None:
    address = put(artifact, f"{bucket}/x")
    if how == "missing":
        s3.filesystem().delete_file(f"{bucket}/x/head.safetensors")
        told = r"/x/head\.safetensors: missing; the artifact is not whole"
    elif how == "damaged":
        with s3.filesystem().open_output_stream(f"{bucket}/x/head.safetensors") as stream:
            stream.write(b"half")
        told = r"/x/head\.safetensors: damaged, its SHA-256"
    else:
        info = json.loads((artifact / "rayclf.json").read_bytes())
        info["files"]["../../../out"] = "0"
        with s3.filesystem().open_output_stream(f"{bucket}/x/rayclf.json") as stream:
            stream.write(json.dumps(info).encode())
        told = r"/x: damaged, '\.\./\.\./\.\./out' is no file of an artifact"
    with pytest.raises(ArtifactError, match=told) as caught:
        fetch_artifact(address)
    assert str(caught.value).startswith(address)
    assert [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_server_that_goes_away_leaves_nothing_half(
    s3: S3Server, bucket: str, put: Any, artifact: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = put(artifact, f"{bucket}/x")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with Relay(s3.endpoint, cut_down=4000, cuts=10_000) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        with pytest.raises(StorageError, match=rf"{address}/\S+: .*cannot be reached or broke off"):
            fetch_artifact(address)
    assert drafts(cache) == []
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert contents(fetch_artifact(address)) == contents(artifact)


def test_nothing_there(bucket: str) -> None:
    with pytest.raises(ArtifactError, match=f"s3://{bucket}/x: neither an artifact nor a finished run"):
        find_artifact(f"s3://{bucket}/x")
    with pytest.raises(StorageError, match="the bucket does not exist"):
        find_artifact("s3://no-such-bucket/x")


def test_keys_in_the_address_are_not_on_disk(s3: S3Server, bucket: str, put: Any, artifact: Path, cache: Path) -> None:
    put(artifact, f"{bucket}/artifact")
    key, secret = s3.access_key.replace(":", "%3A"), s3.secret_key
    found = fetch_artifact(
        f"s3://{key}:{secret}@{bucket}/artifact?endpoint_override={s3.endpoint.partition('//')[2]}&scheme=http"
    )
    assert found.relative_to(cache).as_posix().partition("/")[2] == f"{bucket}/artifact"
    assert all(secret not in str(path) for path in cache.rglob("*"))


def test_a_job_is_the_same_on_every_node(
    bucket: str, put: Any, make: Make, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the driver plans goes to another node as bytes, which fetches the artifacts into a cache of its own."""
    other = make("bert", tuning="head", seed=8, reads=TextSource(text="text")).save(tmp_path / "o" / "artifact")
    addresses = [put(artifact, f"{bucket}/first/artifact"), put(other, f"{bucket}/second/artifact")]
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "in.parquet")
    files = [look_at(str(tmp_path / "in.parquet"), "in.parquet")]
    job = make_job(f"s3://{bucket}/first", files, str(tmp_path / "out"), {"also": [f"s3://{bucket}/second"]})
    assert [model.folder.is_relative_to(tmp_path / "cache") for model in job.models] == [True, True]
    assert [model.prefix for model in job.models] == ["", "second_"]
    local = make_job(artifact, files, str(tmp_path / "out"), {})
    assert job.settings() | {"also": {}} == local.settings()

    sent = pickle.dumps(job)
    monkeypatch.setenv("RAYCLF_CACHE", str(tmp_path / "another"))
    scorer = UnitScorer(pickle.loads(sent))
    assert len(list((tmp_path / "another").glob("*/*/artifact"))) == 2
    table, _ = scorer.classify(scorer.reader(_only_unit(files)))
    for address, prefix in zip(addresses, ("", "second_"), strict=True):
        expected = Classifier.load(address).probabilities(TEXTS)
        np.testing.assert_allclose(table[f"{prefix}probabilities"].to_pylist(), expected, atol=1e-5)

    put(artifact, f"{bucket}/second/artifact")
    monkeypatch.setenv("RAYCLF_CACHE", str(tmp_path / "third"))
    with pytest.raises(ArtifactError, match="has been replaced by another artifact meanwhile"):
        UnitScorer(pickle.loads(sent))


def _only_unit(files: Any) -> Any:
    from rayclf.scoring.units import plan_units

    (unit,) = plan_units(files, 512)
    return unit


def test_the_cache_is_in_the_home_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from rayclf.model.artifact_cache import cache_folder

    monkeypatch.delenv("RAYCLF_CACHE", raising=False)
    assert cache_folder() == Path(os.path.expanduser("~/.cache/rayclf/artifacts"))
    monkeypatch.setenv("RAYCLF_CACHE", "~/x")
    assert cache_folder() == Path(os.path.expanduser("~/x"))
