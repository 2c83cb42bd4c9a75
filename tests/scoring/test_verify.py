"""The proof that an output is whole: what is wrong is named, and its mend mends it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_folder import begin, run, write_input

from rayclf.errors import OutputError
from rayclf.scoring import verify as verify_module
from rayclf.scoring.verify import Report, verify

LAST = "00001-000001"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A finished job of five units over two files."""
    manifest, units = begin(write_input(tmp_path / "in"), tmp_path / "out")
    run(manifest, units)
    return tmp_path / "out"


def again(output: Path) -> int:
    """Run the same command again; returns how many units were left."""
    manifest, units = begin(output.parent / "in", output)
    run(manifest, units)
    return len(units)


def test_a_whole_output(output: Path) -> None:
    (output / ".part-x.parquet.0.tmp").write_text("half")
    (output / "README.md").write_text("not ours")
    told: list[tuple[int, int]] = []
    report = verify(output, lambda done, of: told.append((done, of)))
    size = sum(part.stat().st_size for part in output.glob("part-*"))
    assert report == Report(rows=1700, errors=0, units=5, files=5, bytes=size)
    assert told[-1] == (1700, 1700)
    assert again(output) == 0


def half(output: Path) -> None:
    part = output / f"part-{LAST}.parquet"
    part.write_bytes(part.read_bytes()[:-100])


def flipped(output: Path) -> None:
    part = output / f"part-{LAST}.parquet"
    content = bytearray(part.read_bytes())
    content[100] ^= 1
    part.write_bytes(content)


def gone(output: Path) -> None:
    (output / f"part-{LAST}.parquet").unlink()


def record(output: Path, **change: object) -> None:
    path = output / f"_manifest/units/{LAST}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def fewer_rows(output: Path) -> None:
    record(output, rows=87)


def file_of_fewer_rows(output: Path) -> None:
    path = output / f"_manifest/units/{LAST}.json"
    content = json.loads(path.read_text())
    [entry] = content["files"]
    record(output, files=[{**entry, "rows": 80}, {**entry, "rows": 8}])


@pytest.mark.parametrize(
    ("breaks", "words"),
    [
        (half, rf"part-{LAST}\.parquet: \d+ bytes, its record tells \d+"),
        (flipped, rf"part-{LAST}\.parquet: its SHA-256 is not that of its record"),
        (gone, rf"part-{LAST}\.parquet: is missing"),
        (fewer_rows, f"tells 87 rows of unit {LAST}, the plan 88"),
        (file_of_fewer_rows, rf"part-{LAST}\.parquet: is missing, or stands in two records"),
    ],
)
def test_what_is_wrong_with_a_unit_is_named_and_mended(
    output: Path, breaks: Callable[[Path], None], words: str
) -> None:
    breaks(output)
    with pytest.raises(OutputError, match=words) as error:
        verify(output)
    mend = re.search(r"; delete (\S+) and run the same command again$", str(error.value))
    assert mend
    Path(mend[1]).unlink()
    assert again(output) == 1
    assert verify(output).rows == 1700


def test_the_mend_of_a_record_in_a_batch_names_its_line(output: Path) -> None:
    manifest, _ = begin(output.parent / "in", output)
    manifest.fold(list(manifest.records()))
    assert verify(output).units == 5
    half(output)
    with pytest.raises(OutputError, match=rf"; delete unit {LAST}'s line in (\S+jsonl) and run the same") as error:
        verify(output)
    batch = next(Path(word) for word in str(error.value).split() if word.endswith(".jsonl"))
    batch.write_text("".join(line for line in batch.read_text().splitlines(keepends=True) if LAST not in line))
    assert again(output) == 1
    assert verify(output).rows == 1700


def test_a_unit_that_is_not_done(output: Path) -> None:
    (output / f"_manifest/units/{LAST}.json").unlink()
    with pytest.raises(OutputError, match=f"unit {LAST} is not done; run the same command again"):
        verify(output)
    assert again(output) == 1
    assert verify(output).rows == 1700


def test_a_file_or_a_record_of_no_unit(output: Path) -> None:
    stray = output / "label=a" / f"part-{LAST}.parquet"
    stray.parent.mkdir()
    stray.write_bytes(b"")
    with pytest.raises(OutputError, match=r"label=a/part-\S+\.parquet: stands in no record; delete it"):
        verify(output)
    stray.unlink()
    (output / "_manifest/units/00009-000000.json").write_text(json.dumps({"unit": "00009-000000", "rows": 1}))
    with pytest.raises(OutputError, match=r"unit 00009-000000 is not in the plan; delete "):
        verify(output)


def test_a_file_that_is_no_parquet_for_all_that_its_record_is_right(output: Path) -> None:
    manifest, _ = begin(output.parent / "in", output)
    entry = manifest.write_part(LAST, pa.table({"name": ["x"] * 88}))
    record(output, files=[entry])
    with pytest.raises(OutputError, match="not a Parquet file with a column 'id'"):
        verify(output)
    record(output, files=[manifest.write_part(LAST, pa.table({"id": ["x"] * 87})) | {"rows": 88}])
    with pytest.raises(OutputError, match="87 rows, its record tells 88"):
        verify(output)


@pytest.mark.parametrize("doubled", [("a.jsonl", "b.jsonl-7"), ("b.jsonl", "b.jsonl-8")])
def test_an_id_that_comes_twice(tmp_path: Path, doubled: tuple[str, str]) -> None:
    source = write_input(tmp_path / "in", ids=True)
    name, identity = doubled
    lines = (source / name).read_text().splitlines()
    lines[7] = json.dumps({"text": "x", "id": identity})
    (source / name).write_text("\n".join(lines))
    run(*begin(source, tmp_path / "out"))
    with pytest.raises(OutputError, match=rf"part-00001-000000.*the id '{identity}' is also in .*part-0000"):
        verify(tmp_path / "out")


def test_ids_of_one_hash_are_told_apart(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "hash_texts", lambda ids: np.array([hash(i) % 64 for i in ids], np.uint64))
    assert verify(output).rows == 1700


def test_a_folder_that_is_no_output(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent"):
        with pytest.raises(OutputError, match="not the output of rayclf score"):
            verify(place)
    (tmp_path / "_manifest").mkdir()
    (tmp_path / "_manifest/plan.json").write_text('{"format": 1}')
    with pytest.raises(OutputError, match="planned by another version"):
        verify(tmp_path)


def test_an_input_that_changed_is_refused(output: Path) -> None:
    (output.parent / "in" / "b.jsonl").write_text('{"text": "other"}\n')
    with pytest.raises(OutputError, match=r"the input files changed: \S+b\.jsonl has another size"):
        again(output)
    assert verify(output).rows == 1700
    assert pq.read_table(output, columns=["id"]).num_rows == 1700
