"""Files by path or URI, written whole or not at all."""
# tests are told by their names

import json
import os

import pytest
from pyarrow import fs

from rayclf import storage
from rayclf.errors import OutputError, StorageError, UserError


class Stop(Exception):
    """What a test lets go wrong inside a block."""


def test_paths_and_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert storage.resolve("a/b.csv")[1] == str(tmp_path / "a/b.csv")
    assert storage.resolve("~/x")[1] == os.path.expanduser("~/x")
    filesystem, inner = storage.resolve(f"file://{tmp_path}/a%20b")
    assert isinstance(filesystem, fs.LocalFileSystem)
    assert inner == f"{tmp_path}/a b"
    assert storage.join("s3://bucket/run", "a", "b") == "s3://bucket/run/a/b"
    assert storage.join("s3://bucket/run?region=x", "a") == "s3://bucket/run/a?region=x"
    assert storage.join("run", "a") == os.path.join("run", "a")
    assert storage.local_path(f"file://{tmp_path}/x", "run") == tmp_path / "x"


@pytest.mark.parametrize("address", ["nope://bucket/x", "http://host/x", "file:///a b/c", "a\0b"])
def test_addresses_that_cannot_be_opened(address):
    with pytest.raises(UserError) as error:
        storage.resolve(address)
    assert len(str(error.value).splitlines()) == 1


def test_local_path_refuses_a_remote_one():
    with pytest.raises(UserError, match="run mock:///x: must be a local path"):
        storage.local_path("mock:///x", "run")


def test_kind_and_version(tmp_path):
    file = tmp_path / "x"
    assert storage.kind(file) == "missing"
    file.write_text("one")
    before = storage.size_and_version(file)
    assert (storage.kind(file), storage.kind(tmp_path), before["size"]) == ("file", "folder", 3)
    file.write_text("four")
    os.utime(file, ns=(1, 1))
    assert storage.size_and_version(file) == {"size": 4, "modified_ns": 1}


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_files_under_gives_paths_that_open(tmp_path, scheme):
    shown = ["a.csv", "b c.csv", "d#1.csv", "e%20f.csv", "q?x=1.csv", "sub/é.csv"]
    for name in [*shown, ".hidden", "_manifest/x", "sub/.git/y", "sub/_z"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = storage.files_under(f"{scheme}{tmp_path}")
    assert [storage.kind(path) for path in found] == ["file"] * len(shown)
    assert [storage.resolve(path)[1] for path in found] == [str(tmp_path / name) for name in sorted(shown)]


def test_write_whole_shows_the_file_at_the_end(tmp_path):
    target = tmp_path / "new" / "x.bin"
    with storage.write_whole(target) as file:
        file.write(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert os.listdir(target.parent) == ["x.bin"]


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_write_whole_leaves_nothing_behind(tmp_path, old, error):
    target = tmp_path / "x.bin"
    if old:
        target.write_bytes(old)
    with pytest.raises(error), storage.write_whole(target) as file:
        file.write(b"half")
        raise error
    assert [path.read_bytes() for path in tmp_path.iterdir()] == ([old] if old else [])


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A filesystem that is not the local one, as an object store is."""
    bucket = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    monkeypatch.setattr(storage, "resolve", lambda path: (bucket, str(path).removeprefix("test://")))
    return tmp_path


def test_remote_write_whole(remote):
    (remote / "x").write_bytes(b"old")
    with pytest.raises(Stop), storage.write_whole("test://x") as file:
        file.write(b"half")
        raise Stop
    assert (remote / "x").read_bytes() == b"old"
    with pytest.raises(Stop), storage.write_whole("test://y") as file:
        file.write(b"half")
        raise Stop
    assert not (remote / "y").exists()
    with storage.write_whole("test://x") as file:
        file.write(b"whole")
    assert [path.read_bytes() for path in remote.iterdir()] == [b"whole"]


def test_folder_whole(tmp_path):
    target = tmp_path / "deep" / "artifact"
    with storage.folder_whole(target) as draft:
        (draft / "x").write_text("whole")
        assert not target.exists()
    assert (target / "x").read_text() == "whole"
    assert os.listdir(target.parent) == ["artifact"]
    empty = tmp_path / "empty"
    empty.mkdir()
    with storage.folder_whole(empty) as draft:
        (draft / "x").write_text("whole")
    assert (empty / "x").exists()


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_folder_whole_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error), storage.folder_whole(tmp_path / "artifact") as draft:
        (draft / "sub").mkdir()
        (draft / "sub" / "x").write_text("half")
        raise error
    assert os.listdir(tmp_path) == []


def test_folder_whole_never_replaces_files(tmp_path):
    target = tmp_path / "artifact"
    target.mkdir()
    (target / "mine").write_text("kept")
    with pytest.raises(OSError, match="not empty"), storage.folder_whole(target) as draft:
        (draft / "x").write_text("new")
    assert os.listdir(tmp_path) == ["artifact"]
    assert os.listdir(target) == ["mine"]


def test_json(tmp_path):
    value = {"name": 'é\n"', "numbers": [1, 2.5, None]}
    storage.write_json(tmp_path / "x.json", value)
    assert storage.read_json(tmp_path / "x.json") == value
    assert "é" in (tmp_path / "x.json").read_text(encoding="utf-8")
    (tmp_path / "x.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="decode"):
        storage.read_json(tmp_path / "x.json")
    with pytest.raises(FileNotFoundError):
        storage.read_json(tmp_path / "absent.json")
    with pytest.raises(TypeError):
        storage.write_json(tmp_path / "y.json", {"x": object()})
    assert not (tmp_path / "y.json").exists()


def test_json_written_is_strict(tmp_path):
    storage.write_json(tmp_path / "x.json", {"f1": float("nan")})
    json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert storage.sha256(tmp_path / "x").startswith("ba7816bf8f01cfea414140de5dae2223")


def test_hidden_files_are_left_out_but_not_partitions(tmp_path):
    for name in ("_day=1/x", "_SUCCESS", "_manifest/x", ".x/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    [entry] = storage.entries(tmp_path)
    assert (entry.path, entry.name, entry.info.size) == (str(tmp_path / "_day=1/x"), "_day=1/x", 8)
    with pytest.raises(FileNotFoundError):
        storage.entries(tmp_path / "absent")


def test_a_name_that_is_not_utf8(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"\xff.csv")).write_text("x")
    except OSError:
        pytest.skip("this filesystem takes UTF-8 names only")
    with pytest.raises(StorageError, match="not UTF-8; rename the file"):
        storage.files_under(tmp_path)


def test_remote_folder_whole(remote):
    with storage.folder_whole("test://out", last="b") as draft:
        (draft / "sub").mkdir()
        for name in ("a", "b", "sub/c"):
            (draft / name).write_text(name)
        (remote / "out" / "sub").mkdir(parents=True)  # an object store has no folders to make
        assert not (remote / "out" / "a").exists()
        (remote / "out" / "a").parent.joinpath("old").touch()
        (remote / "out" / "old").unlink()
    assert [(remote / "out" / name).read_text() for name in ("a", "b", "sub/c")] == ["a", "b", "sub/c"]
    with pytest.raises(OutputError, match="holds files already"), storage.folder_whole("test://out"):
        pass


def test_places_that_cannot_be_written_or_read(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "x", tmp_path / ("n" * 300)):
        with pytest.raises(StorageError, match="check the path") as error, storage.write_whole(place) as file:
            file.write(b"x")
        assert str(error.value).startswith(f"{place}: ")
    with pytest.raises(StorageError, match="check the path"), storage.folder_whole(tmp_path / "file" / "x" / "y"):
        pass
    with pytest.raises(StorageError):
        storage.read_json(tmp_path)
    with pytest.raises(StorageError):
        storage.files_under(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


@pytest.fixture
def no_rights(tmp_path):
    """A folder that the test may not look into, also when it runs as root."""
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    else:
        folder.chmod(0)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_permission_denied(no_rights):
    for call in (storage.kind, storage.size_and_version, storage.read_json):
        with pytest.raises(StorageError, match="Permission denied; check the path, the rights on it"):
            call(no_rights / "x")
    with pytest.raises(StorageError, match="Permission denied"):
        storage.files_under(no_rights)
    with pytest.raises(StorageError, match="Permission denied"), storage.write_whole(no_rights / "x" / "y"):
        pass
    with pytest.raises(StorageError, match="Permission denied"), storage.folder_whole(no_rights / "x"):
        pass


def test_a_full_disk_is_told_and_other_errors_of_the_block_are_not_ours(tmp_path):
    with pytest.raises(StorageError, match="No space left on device"), storage.write_whole(tmp_path / "x"):
        raise OSError(28, os.strerror(28))
    with pytest.raises(OSError, match="my own"), storage.write_whole(tmp_path / "x"):
        raise OSError("my own")
    assert os.listdir(tmp_path) == []


def test_delete_files(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    storage.delete_files(str(tmp_path / name) for name in ("a", "gone", "b"))
    assert [file.name for file in tmp_path.iterdir()] == ["c"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder"):
        storage.delete_files([str(tmp_path / "folder")])


def test_a_draft_is_hidden_from_what_reads_the_folder(tmp_path):
    with storage.write_whole(tmp_path / "x.parquet") as file:
        file.write(b"half")
        assert storage.files_under(tmp_path) == []
        assert [draft.name[0] for draft in tmp_path.iterdir()] == ["."]
    assert storage.files_under(tmp_path) == [str(tmp_path / "x.parquet")]
