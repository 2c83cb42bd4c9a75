"""Training rows through Ray tasks: every row once, in the order that was worked out, for any number of workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny import decoder_tokenizer

import rayclf
from rayclf.data import stream
from rayclf.data.dataset import Dataset
from rayclf.data.order import EpochOrder
from rayclf.data.stream import epoch_batches
from rayclf.data.tokens import Encoding, tokenize_rows
from rayclf.labels import dense_targets


@pytest.fixture(scope="module")
def dataset(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("data")
    lines = [f"text number {n} {'x' * (n % 7)},{'abc'[n % 3]}" for n in range(203)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return rayclf.prepare(folder / "rows.csv", folder / "out", overrides={"data.validation": 0, "data.test": 0})


@pytest.mark.parametrize(("world", "start"), [(1, 0), (1, 3), (2, 0), (3, 5), (9, 0)])
def test_batches_are_the_rows_of_the_order(
    dataset: Dataset, world: int, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_TASK_ROWS", 5)
    encoding = Encoding(decoder_tokenizer().backend_tokenizer.to_str(), "{text}", 64)
    order = EpochOrder(dataset.rows["train"], 8, seed=1, epoch=0, window=50)
    whole = tokenize_rows(dataset.read("train"), encoding)
    targets = dense_targets(*(whole[name].combine_chunks() for name in ("positive", "unknown")), 3)
    sequence = np.concatenate([rows for _, rows in order.windows()])
    parts = [
        list(epoch_batches(dataset, encoding, order, rank=rank, world=world, start=start)) for rank in range(world)
    ]
    assert {len(part) for part in parts} == {order.steps - start}
    for step in range(start, order.steps):
        batches = [part[step - start] for part in parts]
        wanted = sequence[step * 8 : (step + 1) * 8]
        assert np.concatenate([batch.rows for batch in batches]).tolist() == wanted.tolist()
        for batch in batches:
            np.testing.assert_array_equal(batch.targets, targets[batch.rows].reshape(len(batch.rows), 3))
            assert [ids.tolist() for ids in batch.input_ids] == whole["input_ids"].take(
                pa.array(batch.rows)
            ).to_pylist()


def test_the_first_rows_are_on_their_way_before_they_are_asked_for(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []

    class Counted:
        remote = staticmethod(lambda _folder, _window, rows, *rest: begun.append(len(rows)))

    monkeypatch.setattr(stream, "_read", Counted)
    monkeypatch.setattr(stream, "_TASK_ROWS", 5)
    encoding = Encoding(decoder_tokenizer().backend_tokenizer.to_str(), "{text}", 64)
    epoch_batches(dataset, encoding, EpochOrder(dataset.rows["train"], 8, 1, 0))
    assert begun == [5, 5, 5]


def test_a_missing_data_set_is_one_line(dataset: Dataset, tmp_path: Path) -> None:
    encoding = Encoding(decoder_tokenizer().backend_tokenizer.to_str(), "{text}", 64)
    lost = Dataset(str(tmp_path / "gone"), dataset.record, dataset.space)
    with pytest.raises(Exception, match=r"rayclf\.errors\.DataError: .*damaged"):
        next(epoch_batches(lost, encoding, EpochOrder(3, 2, 1, 0)))
