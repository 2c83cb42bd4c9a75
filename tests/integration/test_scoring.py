"""Offline scoring: complete, resumable, and refusing what is another job."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rayclf
from rayclf.errors import ArtifactError, DataError, OutputError
from rayclf.scoring.verify import verify


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """1,100 rows in two files, some of them not to be scored: three units."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = [None if i % 200 == 7 else "" if i % 200 == 8 else f"which cell number {i}" for i in range(1000)]
    table = pa.table({"question": texts, "label": list(range(1000)), "when": pa.array(range(1000), pa.timestamp("ms"))})
    pq.write_table(table, folder / "a.parquet", row_group_size=300)
    more = pa.table({"question": [f"in the court {i}" for i in range(100)], "label": list(range(100))})
    pq.write_table(more, folder / "b.parquet")
    lines = [json.dumps({"question": f"in the court {i}", "label": i}) for i in range(100)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines) + "\n")
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
    assert ids == [f"a.parquet#{i}" for i in range(1, 1001)] + [f"b.parquet#{i}" for i in range(1, 101)]
    first = scored.slice(0, 10).to_pylist()
    assert first[7]["error"] == "no text"
    assert first[8]["error"] == "empty text"
    assert first[7]["label"] is None
    assert first[7]["probabilities"] is None
    assert first[6]["error"] is None
    assert sum(first[6]["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert first[6]["input_label"] == 6  # beside the predicted label, of the type it came in
    assert scored["when"].null_count == 100  # which b.parquet has not
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


def test_a_unit_scored_again_leaves_no_row_in_another_partition(
    encoder_run: rayclf.Run, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    rayclf.score(encoder_run.artifact, corpus / "b.parquet", out, partition_by_label=True)
    part = next(out.glob("label=*/part-*.parquet"))
    stray = out / "label=other" / part.name  # as of an attempt on a processor by which these rows had another label
    stray.parent.mkdir()
    shutil.copy(part, stray)
    (out / "_manifest" / "units" / f"{part.stem.removeprefix('part-')}.json").unlink()
    assert rayclf.score(encoder_run.artifact, corpus / "b.parquet", out, partition_by_label=True).scored_rows == 100
    assert not stray.exists()
    assert verify(out).rows == 100


def test_another_job_is_refused_and_the_difference_named(
    encoder_run: rayclf.Run, decoder_run: rayclf.Run, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    file = corpus.parent / "b.jsonl"
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


def test_columns_that_change_their_type_are_refused(encoder_run: rayclf.Run, corpus: Path, tmp_path: Path) -> None:
    (corpus.parent / "b.jsonl").rename(corpus / "c.jsonl")
    with pytest.raises(DataError, match="column 'label' is string, but int64 in"):
        rayclf.score(encoder_run.artifact, corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_something_else_is_left_alone(encoder_run: rayclf.Run, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="not the output of rayclf score"):
            rayclf.score(encoder_run.artifact, corpus, tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_error_in_the_scoring_processes_is_told_as_what_it_is(
    decoder_run: rayclf.Run, corpus: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "artifact"
    shutil.copytree(decoder_run.artifact, copy)
    about = json.loads((copy / "rayclf.json").read_text())
    about["backbone"]["sha256"] = {"model.safetensors": "0" * 64}
    (copy / "rayclf.json").write_text(json.dumps(about))
    with pytest.raises(ArtifactError, match="trained on other weights") as caught:
        rayclf.score(copy, corpus, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("part-*"))
