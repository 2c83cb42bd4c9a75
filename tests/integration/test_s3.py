"""Reading and writing a real object store, and what is said when it refuses, dies or breaks off."""
# tests are told by their names

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from pyarrow import fs
from s3 import Relay

from rayclf import storage
from rayclf.data.dataset import Dataset
from rayclf.data.formats import read_batches
from rayclf.data.prepare import prepare
from rayclf.data.sources import find_sources
from rayclf.errors import DataError, OutputError, StorageError, UserError
from rayclf.storage_errors import failure

SECRETS = ("testing", "wrong-secret", "se/cr+et")


@pytest.fixture
def bucket(s3, monkeypatch):
    """The name of a new bucket, with the environment that finds its server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3.variables().items():
        monkeypatch.setenv(name, value)
    return s3.new_bucket()


@pytest.fixture
def put(s3, bucket):
    """A function that lays objects, name to bytes, into the bucket."""
    filesystem = s3.filesystem()

    def one(item):
        with filesystem.open_output_stream(f"{bucket}/{item[0]}") as stream:
            stream.write(item[1])

    def of(objects):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, objects.items()))

    return of


@pytest.fixture
def objects(s3, bucket):
    """A function that gives the names of all objects in the bucket."""
    filesystem = s3.filesystem()

    def of():
        found = filesystem.get_file_info(fs.FileSelector(bucket, recursive=True))
        return sorted(info.path.removeprefix(f"{bucket}/") for info in found if info.type == fs.FileType.File)

    return of


def told(error):
    """The one line of an error, which must hold no secret."""
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert not any(secret in text for secret in SECRETS)
    return text


def line(number):
    return json.dumps({"id": number, "text": f"text {number}"}).encode() + b"\n"


def ways(place):
    """Every way into the storage, each a name and a call that asks it for ``place``, a file in a folder."""

    def write():
        with storage.write_whole(place) as file:
            file.write(b"x")

    return {
        "kind": lambda: storage.kind(place),
        "files_under": lambda: storage.files_under(place.rpartition("/")[0]),
        "size_and_version": lambda: storage.size_and_version(place),
        "read_json": lambda: storage.read_json(place),
        "write_whole": write,
    }


WAYS = list(ways(""))


def test_one_file(bucket, put):
    put({"a b/x#1.jsonl": line(1) + line(2)})
    place = f"s3://{bucket}/a%20b/x%231.jsonl"
    [source] = find_sources(place)
    assert (source.path, source.name, source.size, dict(source.partitions)) == (place, "x#1.jsonl", 56, {})
    assert [table.to_pydict() for table in read_batches(source.path)] == [
        {"id": ["1", "2"], "text": ["text 1", "text 2"]}
    ]


def test_many_small_files_are_streamed(bucket, put):
    put({f"day={n % 7}/part-{n:03}.jsonl": line(n) for n in range(200)} | {"day=0/_SUCCESS": b"", "README.md": b"x"})
    sources = find_sources(f"s3://{bucket}")
    assert [source.name for source in sources] == sorted(f"day={n % 7}/part-{n:03}.jsonl" for n in range(200))
    assert all(source.partitions == {"day": source.name[4]} for source in sources)
    tables = (table for source in sources for table in read_batches(source.path))
    assert sorted(int(i) for table in tables for i in table["id"].to_pylist()) == list(range(200))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("in/day=*/*.jsonl", ["day=1/a.jsonl", "day=2/b.jsonl"]),
        ("in/day=2", ["b.jsonl"]),
        ("in/day=?/?.jsonl", ["day=1/a.jsonl", "day=2/b.jsonl"]),
        ("in/day=[2-9]", ["day=2/b.jsonl"]),
        ("**/*.jsonl", ["in/day=1/a.jsonl", "in/day=2/b.jsonl", "other/c.jsonl"]),
        ("in/**/b.*?region=us-east-1", ["day=2/b.jsonl"]),
    ],
)
def test_globs(bucket, put, pattern, names):
    put({"in/day=1/a.jsonl": line(1), "in/day=2/b.jsonl": line(2), "other/c.jsonl": line(3)})
    sources = find_sources(f"s3://{bucket}/{pattern}")
    assert [source.name for source in sources] == names
    assert all(storage.kind(source.path) == "file" for source in sources)


def test_versions_tell_contents_apart(bucket, put):
    put({"x.csv": b"a,b\n1,2\n"})
    [first] = find_sources(f"s3://{bucket}/x.csv")
    [again] = find_sources(f"s3://{bucket}")
    put({"x.csv": b"a,b\n1,3\n"})  # the same size, within the second
    [changed] = find_sources(f"s3://{bucket}")
    assert first == again
    assert (first.version != changed.version, first.size) == (True, changed.size)


def test_nothing_there(bucket):
    for place in ("none.csv", "none/", "*.csv"):
        with pytest.raises(DataError, match="no such file or folder|matches no files"):
            find_sources(f"s3://{bucket}/{place}")
    with pytest.raises(DataError, match=r"bucket's name cannot hold wildcards"):
        find_sources("s3://buck*/x.csv")
    with pytest.raises(FileNotFoundError) as missing:
        storage.read_json(f"s3://{bucket}/none.json")
    assert "no such file" in str(failure(f"s3://{bucket}/none.json", missing.value))


def test_credentials_in_the_address_of_a_file_of_no_known_type(bucket, put, monkeypatch):
    put({"x.csv": b"a,b\n1,2\n", "x.txt": b"x"})
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    address = f"s3://test%3Atester:testing@{bucket}"
    assert [source.name for source in find_sources(f"{address}/*")] == ["x.csv"]
    for place in ("x.txt", "*.txt", "none"):
        with pytest.raises(DataError) as error:
            find_sources(f"{address}/{place}")
        assert told(error).startswith(f"s3://***@{bucket}/{place}: ")


def test_large_objects_go_in_parts_and_only_whole(bucket, objects):
    content = bytes(range(256)) * 2**16  # 16 MiB
    with storage.write_whole(f"s3://{bucket}/large.bin") as file:
        file.write(content)
        assert objects() == []
    filesystem, inner = storage.resolve(f"s3://{bucket}/large.bin")
    assert filesystem.open_input_file(inner).read() == content
    with pytest.raises(KeyError), storage.write_whole(f"s3://{bucket}/half.bin") as file:
        file.write(content)
        raise KeyError
    assert objects() == ["large.bin"]


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_secret_is_told_after_few_requests(s3, bucket, monkeypatch, way):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with Relay(s3.endpoint) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        with pytest.raises(StorageError) as error:
            ways(f"s3://{bucket}/x/y.json")[way]()
    assert "access refused; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in told(error)
    assert 1 <= relay.requests <= 3


@pytest.mark.parametrize("way", WAYS)
def test_a_wrong_secret_in_the_address(bucket, way):
    with pytest.raises(StorageError) as error:
        ways(f"s3://test%3Atester:wrong-secret@{bucket}/x/y.json")[way]()
    assert f"s3://***@{bucket}/x" in told(error)
    assert "check the key and the secret in the address" in told(error)


@pytest.mark.parametrize("way", WAYS)
def test_no_credentials(bucket, monkeypatch, way):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StorageError) as error:
        ways(f"s3://{bucket}/x/y.json")[way]()
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in told(error)


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"size_and_version"}))
def test_a_bucket_that_is_missing(bucket, way):
    with pytest.raises(StorageError) as error:
        ways("s3://no-such-bucket/x/y.json")[way]()
    assert told(error).startswith("s3://no-such-bucket/x")
    assert "the bucket does not exist" in told(error)


def test_a_server_that_cannot_be_reached(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:testing@127.0.0.1:1")
    with pytest.raises(StorageError) as error:
        storage.kind(f"s3://{bucket}/x")
    assert "cannot be reached" in told(error)
    assert "AWS_ENDPOINT_URL" in told(error)


def test_a_read_that_breaks_once_goes_on(s3, bucket, put, monkeypatch):
    put({"x.jsonl": b"".join(map(line, range(60_000)))})
    with Relay(s3.endpoint, cut_down=500_000, cuts=1) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        ids = [i for table in read_batches(f"s3://{bucket}/x.jsonl") for i in table["id"].to_pylist()]
    assert ids == [str(i) for i in range(60_000)]
    assert relay.broken == 1


def test_a_read_that_always_breaks_is_told(s3, bucket, put, monkeypatch):
    put({"x.jsonl": b"".join(map(line, range(60_000))), "x.json": b" " * 10**6 + b"1"})
    with Relay(s3.endpoint, cut_down=5_000, cuts=10**6) as relay:
        monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
        with pytest.raises(UserError) as error:
            list(read_batches(f"s3://{bucket}/x.jsonl"))
        assert told(error).startswith(f"s3://{bucket}/x.jsonl: ")
        with pytest.raises(StorageError) as error:
            storage.read_json(f"s3://{bucket}/x.json")
    assert "cannot be reached or broke off" in told(error)
    assert relay.broken < 100  # both have given up


def test_a_server_that_dies_during_an_upload(s3, bucket, put, objects, monkeypatch):
    put({"x.bin": b"old"})
    for name in ("x.bin", "y.bin"):
        with Relay(s3.endpoint, die_up=6_000_000) as relay:
            monkeypatch.setenv("AWS_ENDPOINT_URL", relay.endpoint)
            with pytest.raises(StorageError) as error, storage.write_whole(f"s3://{bucket}/{name}") as file:
                file.write(b"new!" * 4_000_000)
        assert relay.broken >= 1  # parts go over several connections
        assert "cannot be reached or broke off" in told(error)
    assert objects() == ["x.bin"]
    assert s3.filesystem().open_input_file(f"{bucket}/x.bin").read() == b"old"


def test_a_folder_shows_its_mark_last(s3, bucket, objects, monkeypatch):
    order = []
    upload = storage._upload
    monkeypatch.setattr(storage, "_upload", lambda *given: (order.append(given[3]), upload(*given)))
    with storage.folder_whole(f"s3://{bucket}/out", last="dataset.json") as draft:
        (draft / "train").mkdir()
        for name in ("dataset.json", "a.txt", "train/z #1.parquet"):
            (draft / name).write_text(name)
        assert objects() == []
    assert objects() == ["out/a.txt", "out/dataset.json", "out/train/z #1.parquet"]
    assert order[-1] == f"{bucket}/out/dataset.json"
    with pytest.raises(OutputError, match="holds files already"), storage.folder_whole(f"s3://{bucket}/out"):
        pass


def test_a_folder_that_fails_leaves_nothing(bucket, objects, monkeypatch):
    with pytest.raises(KeyError), storage.folder_whole(f"s3://{bucket}/out", last="x") as draft:
        (draft / "x").write_text("half")
        raise KeyError
    assert objects() == []
    upload = storage._upload

    def fails(local, path, *rest):
        if path.endswith("mark"):
            raise StorageError("gone")
        upload(local, path, *rest)

    monkeypatch.setattr(storage, "_upload", fails)
    with pytest.raises(StorageError, match="gone"), storage.folder_whole(f"s3://{bucket}/out", last="mark") as draft:
        (draft / "a").write_text("sent")
        (draft / "mark").write_text("not sent")
    assert objects() == []


def test_prepare_from_and_to_a_bucket(bucket, put, objects, s3):
    rows = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(120)]
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    put({f"in/day={day}/x.jsonl": b"".join(lines[day * 40 : day * 40 + 40]) for day in range(3)})
    dataset = prepare(f"s3://{bucket}/in", f"s3://{bucket}/out")
    assert dataset.record.read == dataset.record.kept == sum(dataset.rows.values()) == 120
    assert sorted(t for part in dataset.rows for t in dataset.read(part)["text"].to_pylist()) == sorted(
        row["text"] for row in rows
    )
    assert {source.path for source in dataset.record.sources} == {f"s3://{bucket}/in/day={d}/x.jsonl" for d in range(3)}
    assert all(len(source.version.strip('"')) == 32 for source in dataset.record.sources)  # MD5, an ETag
    assert "out/dataset.json" in objects()
    again = Dataset.open(f"s3://{bucket}/out")
    assert again.record == dataset.record
    with pytest.raises(OutputError, match="--overwrite"):
        prepare(f"s3://{bucket}/in", f"s3://{bucket}/out")
    other = prepare(f"s3://{bucket}/in/day=0", f"s3://{bucket}/out", overrides={"output.overwrite": True})
    assert other.record.read == 40
    record = storage.read_json(f"s3://{bucket}/out/dataset.json")
    assert not any(secret in json.dumps(record) for secret in SECRETS)


def test_a_failed_preparation_leaves_no_object(bucket, put, objects):
    put({"in/x.jsonl": b'{"text": "a", "label": "x"}\n' * 3})
    before = objects()
    with pytest.raises(UserError):
        prepare(f"s3://{bucket}/in", f"s3://{bucket}/out")
    assert objects() == before


def test_secrets_in_an_address_are_never_shown(s3, bucket):
    address = f"s3://testing:se%2Fcr%2Bet@{bucket}/x.jsonl?endpoint_override=127.0.0.1:1&scheme=http"
    error = DataError(f"{address}: broken")
    assert "se%2Fcr%2Bet" not in str(error)
    assert "***@" in str(error)
    with pytest.raises(UserError) as caught:
        find_sources(address)
    assert "se%2Fcr%2Bet" not in str(caught.value)
