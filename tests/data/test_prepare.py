"""From labelled input to a prepared data set: nothing lost, nothing in two parts, the same again."""
# tests are told by their names

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayclf.config_file import load_config
from rayclf.data.dataset import Dataset, is_dataset
from rayclf.data.prepare import prepare
from rayclf.errors import ConfigError, DataError, LabelError, OutputError, UserError

steady = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def write(file, rows):
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def rows_of(count, labels=("cat", "dog"), **more):
    return [{"text": f"text number {i}", "label": labels[i % len(labels)], **more} for i in range(count)]


@pytest.fixture
def made(tmp_path):
    """A factory: prepare rows with overrides, and open what was written."""

    def of(rows, name="out", test=None, **overrides):
        file = write(tmp_path / f"{name}.jsonl", rows)
        fields = {path.replace("__", "."): value for path, value in overrides.items()}
        return prepare(file, tmp_path / name, test=test, overrides=fields)

    return of


def texts(dataset, part):
    return dataset.read(part)["text"].to_pylist() if dataset.rows[part] else []


def test_every_row_is_in_one_part(made):
    rows = rows_of(200)
    dataset = made(rows)
    held = [text for part in dataset.rows for text in texts(dataset, part)]
    assert Counter(held) == Counter(row["text"] for row in rows)
    assert set(dataset.rows) == {"train", "test", "validation"}
    assert sum(dataset.rows.values()) == dataset.record.read == dataset.record.kept == 200
    assert dataset.record.quarantined == 0
    label_of = {row["text"]: row["label"] for row in rows}
    for part in dataset.rows:
        for row in dataset.read(part).to_pylist():
            assert [dataset.space.names[i] for i in row["positive"]] == [label_of[row["text"]]]
            assert row["unknown"] == []
        counts = dataset.counts(part)
        assert counts.rows == sum(counts.positive) == dataset.rows[part]


def test_the_record_tells_where_rows_came_from(made, tmp_path):
    dataset = made(rows_of(50), train__seed=3)
    record = json.loads((tmp_path / "out" / "dataset.json").read_text())
    (source,) = record["sources"]
    assert source["rows"] == 50
    assert source["size"] == (tmp_path / "out.jsonl").stat().st_size
    assert source["version"]
    assert record["seed"] == 3
    assert record["reads"]["text"] == "text"
    assert record["label"] == "label"
    for part in record["parts"].values():
        for file in part["files"]:
            assert pq.read_metadata(tmp_path / "out" / file["path"]).num_rows == file["rows"]
    assert Dataset.open(tmp_path / "out").record == dataset.record
    assert is_dataset(tmp_path / "out")
    assert not is_dataset(tmp_path)


def test_the_same_input_and_seed_give_the_same_bytes(made):
    first, again, other = (made(rows_of(80), name, train__seed=seed) for name, seed in [("a", 1), ("a2", 1), ("b", 2)])
    assert texts(first, "train") == texts(again, "train")
    assert set(texts(first, "test")) != set(texts(other, "test"))
    same = made(rows_of(80), "a", train__seed=1, output__overwrite=True)
    assert same.record.content_sha256 == first.record.content_sha256 != other.record.content_sha256


def test_adding_rows_does_not_move_old_ones(made):
    small = made(rows_of(300), "small", data__split="random")
    large = made(rows_of(400), "large", data__split="random")
    old = {row["text"] for row in rows_of(300)}
    for part in ("train", "test", "validation"):
        assert set(texts(large, part)) & old == set(texts(small, part))


def test_training_rows_are_mixed_unless_told_not_to_be(made):
    rows = rows_of(100)
    mixed, plain = made(rows, "mixed"), made(rows, "plain", data__shuffle=False)
    assert sorted(texts(mixed, "train")) == sorted(texts(plain, "train"))
    in_order = [row["text"] for row in rows if row["text"] in set(texts(plain, "train"))]
    assert texts(plain, "train") == in_order != texts(mixed, "train")


def test_groups_stay_together(made):
    rows = [{**row, "user": f"u{i % 20}"} for i, row in enumerate(rows_of(200))]
    dataset = made(rows, data__split="group", data__split_column="user", data__test=0.3)
    user_of = {row["text"]: row["user"] for row in rows}
    users = [{user_of[text] for text in texts(dataset, part)} for part in dataset.rows]
    assert sum(map(len, users)) == 20
    assert dataset.rows["test"] > 0


def test_the_newest_rows_are_the_test(made):
    rows = [{**row, "day": f"2024-{1 + i // 28:02d}-{1 + i % 28:02d}"} for i, row in enumerate(rows_of(100))]
    dataset = made(rows, data__split="time", data__split_column="day")
    assert set(texts(dataset, "test")) == {f"text number {i}" for i in range(90, 100)}
    assert set(texts(dataset, "validation")) == {f"text number {i}" for i in range(80, 90)}
    with pytest.raises(DataError, match=r"row 1, column 'text': not a time; use ISO 8601"):
        made(rows, "other", data__split="time", data__split_column="text", data__template="{text}")
    with pytest.raises(DataError, match="--split-column"):
        made(rows, "third", data__split="time")
    with pytest.raises(DataError, match=r"no column 'week'; --split-column must name one of"):
        made(rows, "fourth", data__split="time", data__split_column="week")


def test_only_training_is_rebalanced(made):
    rows = [{"text": f"row {i}", "label": "dog" if i % 10 else "cat"} for i in range(300)]
    plain = made(rows, "plain")
    dataset = made(rows, data__rebalance={"cat": 0.5, "dog": 0.5})
    train = Counter(dataset.space.names[i[0]] for i in dataset.read("train")["positive"].to_pylist())
    assert abs(train["cat"] - train["dog"]) <= 1
    assert dataset.rows["train"] == plain.rows["train"]
    for part in ("test", "validation"):
        assert texts(dataset, part) == texts(plain, part)
    assert set(dataset.record.rebalanced) == {"cat", "dog"}
    assert sum(dataset.counts("train").positive) == dataset.rows["train"]
    counts = made(rows, "counts", data__rebalance={"cat": 40, "dog": 30})
    assert counts.rows["train"] == 70
    with pytest.raises(LabelError, match="bird"):
        made(rows, "bad", data__rebalance={"bird": 3})


def test_downsampling(made):
    assert made(rows_of(200), data__downsample=20).rows["train"] == 20
    half, whole = made(rows_of(200), "half", data__downsample=0.5), made(rows_of(200), "whole")
    assert abs(half.rows["train"] - whole.rows["train"] / 2) <= 1
    assert half.rows["test"] == whole.rows["test"]


def test_rows_that_cannot_be_used_are_set_aside_and_counted(made, tmp_path):
    rows = rows_of(400)
    rows[7]["text"] = " "
    rows[150]["label"] = None
    dataset = made(rows)
    assert (dataset.record.read, dataset.record.kept, dataset.record.quarantined) == (400, 398, 2)
    assert sum(dataset.rows.values()) == 398
    log = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [(entry["row"], entry["reason"]) for entry in log] == [
        (8, "column 'text': empty text"),
        (151, "column 'label': no label"),
    ]
    assert all(entry["file"].endswith("out.jsonl") for entry in log)
    assert sum(dataset.record.reasons.values()) == 2
    ids = {i for part in dataset.rows for i in dataset.read(part)["id"].to_pylist()}
    assert "out.jsonl#8" not in ids
    assert "out.jsonl#9" in ids  # rows are counted in the file, the rejected among them


def test_too_many_bad_rows_stop_the_job(made, tmp_path):
    rows = rows_of(100)
    rows[3]["text"] = rows[5]["text"] = ""
    with pytest.raises(DataError, match=r"row 4, column 'text': empty text \(and 1 more rows\).*max_rejected allows 1"):
        made(rows)
    assert not (tmp_path / "out").exists()
    assert made(rows, data__max_rejected=0.02).record.quarantined == 2
    with pytest.raises(DataError, match="row 4"):
        made(rows, "strict", data__max_rejected=0.02, data__on_error="fail")


def test_lines_that_are_not_json_or_not_utf8_are_set_aside(tmp_path):
    lines = [json.dumps(row).encode() for row in rows_of(300)]
    lines[10], lines[20], lines[30] = b"{broken", b'{"text": "\xff\xfe", "label": "cat"}', b"[1, 2]"
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    dataset = prepare(tmp_path / "x.jsonl", tmp_path / "out")
    assert dataset.record.quarantined == 3
    log = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in log] == [11, 21, 31]
    assert "broken JSON" in log[0]["reason"]
    assert "UTF-8" in log[1]["reason"]


def test_a_test_file_is_the_test_part(made, tmp_path):
    test = write(tmp_path / "test.jsonl", [{"text": f"new {i}", "label": "dog"} for i in range(9)])
    dataset = made(rows_of(100), test=test)
    assert dataset.rows["test"] == 9
    assert sum(dataset.rows.values()) == 109 == dataset.record.read
    assert dataset.record.test_sources[0].rows == 9
    assert dataset.counts("test").positive.tolist() == [0, 9]
    other = write(tmp_path / "other.jsonl", [{"text": "x", "label": "bird"}])
    with pytest.raises(LabelError, match=r"other.jsonl: row 1, .* a label that training does not have: bird"):
        made(rows_of(100), "b", test=other)


def test_declared_labels_without_rows_are_kept(made, tmp_path):
    labels = tmp_path / "labels.tsv"
    labels.write_text("id\tname\talternatives\tdescription\nc\tcat\tkitty|puss\t\nd\tdog\t\tbarks\nb\tbird\t\t\n")
    rows = rows_of(60, labels=("cat", "d", "kitty"))
    dataset = made(rows, labels__file=str(labels))
    assert dataset.space.names == ("cat", "dog", "bird")
    total = sum(dataset.counts(part).positive for part in dataset.rows)
    assert total.tolist() == [40, 20, 0]
    assert dataset.space.descriptions["dog"] == "barks"
    with pytest.raises(LabelError, match="fish"):
        made(rows_of(20, labels=("cat", "fish")), "bad", labels__file=str(labels))


def test_several_files_with_folders_for_columns(tmp_path):
    for year in (2023, 2024):
        folder = tmp_path / "in" / f"year={year}"
        folder.mkdir(parents=True)
        write(folder / "part.jsonl", [{"text": f"{year} row {i}", "label": "ab"[i % 2]} for i in range(30)])
    dataset = prepare(tmp_path / "in", tmp_path / "out", overrides={"data.template": "{year}: {text}"})
    assert [source.rows for source in dataset.record.sources] == [30, 30]
    held = {text for part in dataset.rows for text in texts(dataset, part)}
    assert "2023: 2023 row 4" in held
    assert len(held) == 60
    ids = {i for part in dataset.rows for i in dataset.read(part)["id"].to_pylist()}
    assert "year=2024/part.jsonl#30" in ids
    only = prepare(str(tmp_path / "in" / "year=2023" / "*.jsonl"), tmp_path / "one")
    assert only.record.read == 30


def test_parts_without_rows_among_others(tmp_path):
    (tmp_path / "in").mkdir()
    pq.write_table(
        pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.string())}), tmp_path / "in" / "0.parquet"
    )
    with pytest.raises(DataError, match=r"0\.parquet: holds no rows$"):
        prepare(tmp_path / "in", tmp_path / "out")
    write(tmp_path / "in" / "1.jsonl", rows_of(30))
    dataset = prepare(tmp_path / "in", tmp_path / "out")
    assert [source.rows for source in dataset.record.sources] == [0, 30]


def test_pairs_keep_both_texts(made):
    rows = [{"text": "a premise", "other": f"hypothesis {i}", "label": "xy"[i % 2]} for i in range(60)]
    dataset = made(rows, data__text="text", data__text_pair="other", data__split="random")
    pairs = [pair for part in dataset.rows for pair in dataset.read(part)["text_pair"].to_pylist()]
    assert sorted(pairs) == sorted(row["other"] for row in rows)
    assert dataset.rows["test"] < 30  # by the pair, not by the first text


def test_places_that_cannot_be_written(made, tmp_path):
    made(rows_of(30))
    with pytest.raises(OutputError, match="--overwrite"):
        made(rows_of(30))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not a prepared data set"):
        made(rows_of(30), "taken", output__overwrite=True)
    mine = tmp_path / "again" / "mine.jsonl"
    made(rows_of(30), "again")
    mine.write_text("mine")
    with pytest.raises(OutputError, match="which --overwrite would delete"):
        prepare(mine, tmp_path / "again", overrides={"output.overwrite": True})
    assert mine.read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        made(rows_of(30), "file")
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "mine"


def test_a_change_between_the_passes_is_noticed(tmp_path):
    file = write(tmp_path / "x.jsonl", rows_of(50))

    def grow(event):
        if event["kind"] == "plan":
            with file.open("a") as more:
                more.write(json.dumps(rows_of(1)[0]) + "\n")

    with pytest.raises(DataError, match="changed while it was read"):
        prepare(file, tmp_path / "out", on_event=grow)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x.jsonl"]


def test_shares_that_leave_nothing(made):
    with pytest.raises(ConfigError, match="leave no rows to train on"):
        made(rows_of(30), data__test=0.6, data__validation=0.4)


def test_damaged_records(made, tmp_path):
    made(rows_of(30))
    later = (tmp_path / "out" / "dataset.json").read_text().replace('"format": 1', '"format": 9')
    for name, contents in (("labels.json", ("{", "{}", "[]")), ("dataset.json", ("", "{}", "[]", later))):
        for content in contents:
            (tmp_path / "out" / name).write_text(content)
            with pytest.raises(DataError, match=rf"{name}: damaged, .*prepare the data again"):
                Dataset.open(tmp_path / "out")


@pytest.mark.parametrize("left", [0, 100, None])
def test_a_damaged_part_is_told_by_its_file(made, left):
    dataset = made(rows_of(30))
    (file,) = map(Path, dataset.files("train"))
    file.unlink() if left is None else file.write_bytes(file.read_bytes()[:left])
    for read in (dataset.read, lambda part: list(dataset.batches(part))):
        with pytest.raises(DataError, match=rf"{file.name}: gone or damaged \(.+\); prepare the data again"):
            read("train")


def test_slices_of_a_part(made):
    dataset = made(rows_of(300))
    whole = texts(dataset, "train")
    assert dataset.read("train", 7, 19)["text"].to_pylist() == whole[7:19]
    assert [text for batch in dataset.batches("train", 10) for text in batch["text"].to_pylist()] == whole


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(steady, max_examples=40)
@given(st.lists(st.tuples(words, st.sampled_from(["a", "b", "c", None]), st.booleans()), max_size=40))
def test_read_is_kept_and_quarantined(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("prepare")
    rows = [*rows, *[(f"text {i}", "ab"[i % 2], True) for i in range(20)]]
    file = write(folder / "x.jsonl", [{"text": t if whole else "", "label": label} for t, label, whole in rows])
    config = load_config(None, {"data.max_rejected": 0.99, "data.split": "random"})
    try:
        dataset = prepare(file, folder / "out", config=config)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return
    good = [t for t, label, whole in rows if whole and label is not None]
    record = dataset.record
    assert record.read == len(rows) == record.kept + record.quarantined
    assert record.kept == len(good) == sum(dataset.rows.values())
    held = [text for part in dataset.rows for text in texts(dataset, part)]
    assert Counter(held) == Counter(good)
    assert len((folder / "out" / "quarantine.jsonl").read_text().splitlines()) == record.quarantined
    places = {}
    for part in dataset.rows:
        for text in texts(dataset, part):
            assert places.setdefault(text, part) == part  # equal texts are in one part
