"""Offline scoring: complete, resumable, and refusing what is another job."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rayclf
from rayclf.errors import ArtifactError, OutputError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """1,100 rows in two files, some of them not to be scored: three units."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = [None if i % 200 == 7 else "" if i % 200 == 8 else f"which cell number {i}" for i in range(1000)]
    table = pa.table({"question": texts, "label": list(range(1000)), "when": pa.array(range(1000), pa.timestamp("s"))})
    pq.write_table(table, folder / "a.parquet", row_group_size=300)
    (folder / "b.jsonl").write_text("".join(f'{{"question": "in the court {i}", "label": {i}}}\n' for i in range(100)))
    return folder


def test_every_row_once_and_errors_told(encoder_run: rayclf.Run, corpus: Path, tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    out = tmp_path / "out"
    summary = rayclf.score(encoder_run.artifact, corpus, out, on_event=events.append)
    assert (summary.rows, summary.errors, summary.units) == (1100, 10, 3)
    assert sorted(file.name for file in out.glob("*.parquet")) == [
        "part-00000-000000.parquet",
        "part-00000-000001.parquet",
        "part-00001-000000.parquet",
    ]
    scored = pa.concat_tables([pq.read_table(file) for file in sorted(out.glob("*.parquet"))], promote_options="none")
    ids = scored["id"].to_pylist()
    assert ids == [f"a.parquet#{i}" for i in range(1, 1001)] + [f"b.jsonl#{i}" for i in range(1, 101)]
    first = scored.slice(0, 10).to_pylist()
    assert first[7]["error"] == "no text"
    assert first[8]["error"] == "empty text"
    assert first[7]["label"] is None
    assert first[7]["probabilities"] is None
    assert first[6]["error"] is None
    assert sum(first[6]["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert first[6]["input_label"] == "6" or first[6]["input_label"] == 6
    assert events[0]["kind"] == "plan"
    assert events[-1]["rows"] == 1100


def test_resume_scores_only_what_is_missing(encoder_run: rayclf.Run, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = corpus / "a.parquet"
    rayclf.score(encoder_run.artifact, file, out)
    kept, lost = sorted(out.glob("part-*.parquet"))
    before = {kept: (kept.stat().st_mtime_ns, kept.read_bytes()), lost: lost.read_bytes()}
    lost.unlink()
    (out / "_manifest" / "units" / f"{lost.stem.removeprefix('part-')}.json").unlink()
    summary = rayclf.score(encoder_run.artifact, file, out)
    assert summary.scored_rows == 488
    assert summary.rows == 1000
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == before[kept]
    assert pq.read_table(lost).equals(pq.read_table(pa.BufferReader(before[lost])))
    assert rayclf.score(encoder_run.artifact, file, out).scored_rows == 0


def test_another_job_is_refused_and_the_difference_named(
    encoder_run: rayclf.Run, decoder_run: rayclf.Run, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    file = corpus / "b.jsonl"
    rayclf.score(encoder_run.artifact, file, out)
    names = sorted(path.name for path in out.rglob("*"))
    with pytest.raises(OutputError, match="probabilities is 'none', was 'list'"):
        rayclf.score(encoder_run.artifact, file, out, probabilities="none")
    with pytest.raises(OutputError, match="artifact is"):
        rayclf.score(decoder_run.artifact, file, out)
    file.write_text(file.read_text() + '{"question": "one more", "label": 1}\n')
    with pytest.raises(OutputError, match="input files changed"):
        rayclf.score(encoder_run.artifact, file, out)
    assert sorted(path.name for path in out.rglob("*")) == names
    assert rayclf.score(encoder_run.artifact, file, out, overwrite=True, probabilities="columns").rows == 101
    table = pq.read_table(out)
    columns = [f"probability_{name}" for name in ("biology", "chemistry", "mathematics", "physics")]
    assert set(columns) <= set(table.column_names)


def test_a_folder_that_is_something_else_is_left_alone(encoder_run: rayclf.Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not the output of rayclf score"):
            rayclf.score(encoder_run.artifact, corpus, tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_damaged_artifact_is_told_from_the_processes(
    encoder_run: rayclf.Run, corpus: Path, tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "artifact"
    shutil.copytree(encoder_run.artifact, copy)
    head = copy / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ArtifactError, match=r"head\.safetensors: damaged"):
        rayclf.score(copy, corpus, tmp_path / "out")
    assert not list((tmp_path / "out").glob("part-*"))
