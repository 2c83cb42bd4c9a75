"""Units, manifest, status and proof of a scoring job whose input and output lie in a real object store."""
# tests are told by their names

import gzip
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from rayclf import storage
from rayclf.errors import OutputError, StorageError
from rayclf.scoring.manifest import Manifest
from rayclf.scoring.status import status
from rayclf.scoring.verify import verify

sys.path.insert(0, str(Path(__file__).parents[1] / "scoring"))
from job_folder import begin, run


@pytest.fixture
def bucket(s3, monkeypatch):
    """The URI of a new bucket, with the environment that finds its server."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3.variables().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3.new_bucket()}"


@pytest.fixture
def source(bucket):
    """An input of five units: a plain file, a packed one, and a table."""
    lines = [b'{"text": "text \xc3\xa9 %d"}\n\n' % n for n in range(1100)]
    for name, content in {
        "a b#1.jsonl": b"".join(lines),
        "b.csv.gz": gzip.compress(b"text\r\n" + b'"two\nlines"\r\n' * 600),
    }.items():
        with storage.write_whole(storage.join(bucket, "in", storage.spelled(name))) as file:
            file.write(content)
    return f"{bucket}/in"


def names(place):
    """All objects below a URI."""
    filesystem, inner = storage.resolve(place)
    found = filesystem.get_file_info(fs.FileSelector(inner, recursive=True, allow_not_found=True))
    return sorted(info.path.removeprefix(f"{inner}/") for info in found if info.type == fs.FileType.File)


def test_a_job_that_dies_and_goes_on(bucket, source):
    output = f"{bucket}/out put".replace(" ", "%20")
    manifest, units = begin(source, output)
    assert [unit.source for unit in units] == ["a b#1.jsonl"] * 3 + ["b.csv.gz"] * 2
    assert status(output).state == "planned"
    manifest.write_progress({"state": "running"})
    run(manifest, units[:2])
    lost = units[2]
    manifest.write_part(lost.name, pq.read_table(manifest.part(units[0].name), filesystem=None))  # died before commit
    assert (status(output).state, status(output).rows_done) == ("running", 1024)
    with pytest.raises(OutputError, match=f"unit {lost.name} is not done"):
        verify(output)

    manifest, left = begin(source, output)
    assert left == units[2:]
    records = run(manifest, left)
    manifest.fold(records)
    report = verify(output)
    assert (report.rows, report.units, report.errors) == (1700, 5, 0)
    assert status(output).state == "done"
    assert begin(source, output)[1] == []
    assert [name for name in names(output) if name.startswith("part-")] == [
        f"part-{unit.name}.parquet" for unit in units
    ]

    with storage.write_whole(manifest.part(lost.name)) as file:
        file.write(b"half")
    with pytest.raises(OutputError, match=rf"part-{lost.name}\.parquet: 4 bytes, its record tells"):
        verify(output)


def test_another_job_and_other_places(bucket, source):
    output = f"{bucket}/out"
    manifest, units = begin(source, output)
    run(manifest, units[:3])
    manifest.write_part(units[3].name, pq.read_table(manifest.part(units[0].name)), "label=a%20b")
    with pytest.raises(OutputError, match="artifact is 'other', was None"):
        begin(source, output, artifact="other")
    plan = {"artifact": "other", "files": []}
    assert Manifest(output).open(plan, overwrite=True) == set()
    assert names(output) == ["_manifest/plan.json"]
    assert manifest.saved() == plan
    with pytest.raises(OutputError, match="not the output of rayclf score"):
        Manifest(source).open(plan, overwrite=True)
    with pytest.raises(StorageError, match="the bucket does not exist"):
        Manifest("s3://no-such-bucket/out").open(plan, overwrite=False)


def test_an_input_that_changed(bucket, source):
    begin(source, f"{bucket}/out")
    with storage.write_whole(f"{source}/b.csv.gz") as file:
        file.write(gzip.compress(b"text\nother\n"))
    with pytest.raises(OutputError, match=r"the input files changed: \S+b\.csv\.gz has another size"):
        begin(source, f"{bucket}/out")


def test_files_are_deleted_and_those_that_are_gone_are_no_error(bucket):
    places = [f"{bucket}/x/{n}" for n in range(12)]
    for place in places[:9]:
        with storage.write_whole(place) as file:
            file.write(b"x")
    storage.delete_files(places[5:])
    assert names(f"{bucket}/x") == ["0", "1", "2", "3", "4"]
