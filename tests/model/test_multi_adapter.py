from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifacts import write_many
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import TEXTS, Made, make_classifier, perturb, write_backbone

from rayclf.config import LoraConfig
from rayclf.errors import ArtifactError
from rayclf.labels import ProblemType
from rayclf.model.engine import Classifier
from rayclf.model.info import read_info
from rayclf.model.multi_adapter import AdapterBackbone, forward_mixed, share_key

Make = Callable[..., Made]
KINDS = (
    (ProblemType.BINARY, LoraConfig(r=2, alpha=16)),
    (ProblemType.MULTICLASS, LoraConfig(r=4, alpha=8, rslora=True)),
    (ProblemType.MULTILABEL, LoraConfig(r=3, alpha=9, dora=True)),
)


def write_artifacts(make: Make, name: str, folder: Path) -> list[Path]:
    """Three classifiers on one backbone, of other label numbers, ranks and kinds of adapters."""
    folders = []
    for seed, (kind, lora) in enumerate(KINDS):
        made = make(name, tuning="lora", kind=kind, lora=lora)
        perturb(made.network, seed=50 + seed)
        folders.append(made.save(folder / str(kind)))
    return folders


def alone(folder: Path) -> Classifier:
    return Classifier.load(folder, device="cpu")


def mixed_rows(count: int, classifiers: int) -> tuple[list[Any], list[int]]:
    """Rows of several lengths, one of them empty and some of them twice, each of some classifier."""
    generator = np.random.default_rng(0)
    rows = [generator.integers(5, 300, length).astype(np.int32) for length in generator.integers(1, 30, count)]
    rows[3] = rows[3][:0]
    rows[5] = rows[4]
    return rows, generator.integers(0, classifiers, count).tolist()


def expect(ids: Sequence[Any], owners: Sequence[int], folders: Sequence[Path]) -> list[Any]:
    """The logits of each row by its classifier loaded alone."""
    rows: dict[int, Any] = {}
    for number in sorted(set(owners)):
        own = [i for i, owner in enumerate(owners) if owner == number]
        rows |= dict(zip(own, alone(folders[number]).forward([ids[i] for i in own]), strict=True))
    return [rows[i] for i in range(len(ids))]


def assert_near(got: Sequence[Any], expected: Sequence[Any]) -> None:
    assert [len(row) for row in got] == [len(row) for row in expected]
    np.testing.assert_allclose(np.concatenate(got), np.concatenate(expected), atol=1e-5, rtol=0)


def test_every_row_gets_its_own_classifiers_logits(make: Make, architecture: str, tmp_path: Path) -> None:
    """Of any architecture, in padded batches and, where it can, in packed ones."""
    folders = write_artifacts(make, architecture, tmp_path)
    ids, owners = mixed_rows(24, len(folders))
    expected = expect(ids, owners, folders)
    for batching in ("padded", "packed") if make(architecture).network.packs else ("padded",):
        backbone = AdapterBackbone.load(folders[0], max_tokens=100, batching=batching)
        classifiers = [backbone.classifier(folder) for folder in folders]
        got = forward_mixed(ids, [classifiers[owner] for owner in owners])
        assert {len(row) for row in got} == {1, 3, 4}
        assert_near(got, expected)
    differ = [forward_mixed([ids[0]], [classifier])[0][0] for classifier in classifiers]
    assert np.ptp(differ) > 1e-3


def test_a_shared_classifier_predicts_as_alone(make: Make, tmp_path: Path) -> None:
    folders = write_artifacts(make, "llama", tmp_path)
    backbone = AdapterBackbone.load(folders[0])
    for folder in folders:
        shared, single = backbone.classifier(folder), alone(folder)
        np.testing.assert_allclose(shared.probabilities(TEXTS), single.probabilities(TEXTS), atol=1e-5, rtol=0)
        assert [p.labels for p in shared.predict(TEXTS)] == [p.labels for p in single.predict(TEXTS)]
        assert shared.precision == "fp32"
        assert shared.forward([]).shape == (0, len(shared.space))
    assert shared.encoding.tokenizer_json is backbone.classifier(folders[0]).encoding.tokenizer_json


def test_one_adapter_shares_what_its_rows_begin_with(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    folders = write_artifacts(make, "llama", tmp_path)
    backbone = AdapterBackbone.load(folders[0])
    classifier = backbone.classifier(folders[2])
    begin = np.arange(10, 60, dtype=np.int32)
    ids = [np.concatenate([begin, np.asarray([number, 7], dtype=np.int32)]) for number in range(100, 110)]
    read: list[int] = []
    before = backbone.network.read_prefix

    def counted(tokens: torch.Tensor) -> Any:
        read.append(len(tokens))
        return before(tokens)

    monkeypatch.setattr(backbone.network, "read_prefix", counted)
    assert_near(forward_mixed(ids, [classifier] * 10), expect(ids, [2] * 10, folders))
    assert read == [50]


def test_bfloat16_is_near_what_the_classifier_alone_says(make: Make, tmp_path: Path) -> None:
    folders = write_artifacts(make, "llama", tmp_path)
    backbone = AdapterBackbone.load(folders[0], precision="bf16")
    assert {p.dtype for p in backbone.network.backbone.parameters()} == {torch.bfloat16}
    classifiers = [backbone.classifier(folder) for folder in folders]
    ids, owners = mixed_rows(24, len(folders))
    got = forward_mixed(ids, [classifiers[owner] for owner in owners])
    for number, folder in enumerate(folders):
        own = [i for i, owner in enumerate(owners) if owner == number]
        expected = Classifier.load(folder, device="cpu", precision="bf16").forward([ids[i] for i in own])
        spread = np.abs(expected).max()
        np.testing.assert_allclose(np.stack([got[i] for i in own]), expected, atol=0.05 * spread, rtol=0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_company_changes_nothing(shared: tuple[AdapterBackbone, list[Classifier]], data: st.DataObject) -> None:
    """Whatever else is in the call, and however it is cut into batches, a row has the logits it has alone."""
    _, classifiers = shared
    lengths = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=12))
    owners = data.draw(st.lists(st.sampled_from(classifiers), min_size=len(lengths), max_size=len(lengths)))
    ids = [np.arange(5, 5 + length, dtype=np.int32) for length in lengths]
    for row, owner, logits in zip(ids, owners, forward_mixed(ids, owners), strict=True):
        np.testing.assert_allclose(logits, owner.forward([row])[0], atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def shared(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[AdapterBackbone, list[Classifier]]:
    folders = write_artifacts(make, "llama", tmp_path_factory.mktemp("shared"))
    backbone = AdapterBackbone.load(folders[0], max_tokens=40)
    return backbone, [backbone.classifier(folder) for folder in folders]


def test_equal_rows_of_one_classifier_are_computed_once(
    shared: tuple[AdapterBackbone, list[Classifier]], monkeypatch: Any
) -> None:
    backbone, classifiers = shared
    computed: list[int] = []
    before = backbone.network.forward

    def counted(input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        computed.append(len(input_ids))
        return before(input_ids, *args, **kwargs)

    monkeypatch.setattr(backbone.network, "forward", counted)
    row = np.arange(5, 9, dtype=np.int32)
    forward_mixed([row] * 6, [classifiers[0], classifiers[1]] * 3)
    assert sum(computed) == 2


def test_a_batch_out_of_memory_is_halved(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    folders = write_artifacts(make, "llama", tmp_path)
    backbone = AdapterBackbone.load(folders[0], max_tokens=1000)
    classifiers = [backbone.classifier(folder) for folder in folders]
    before = backbone.network.forward

    def small(input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if input_ids.numel() > 60:
            raise torch.OutOfMemoryError
        return before(input_ids, *args, **kwargs)

    monkeypatch.setattr(backbone.network, "forward", small)
    ids, owners = mixed_rows(24, 3)
    assert_near(forward_mixed(ids, [classifiers[owner] for owner in owners]), expect(ids, owners, folders))
    assert backbone.max_tokens <= 500


def test_whole_classifiers_and_other_backbones_mix_too(make: Make, tmp_path: Path) -> None:
    folders = [*write_artifacts(make, "llama", tmp_path), make("bert").save(tmp_path / "bert")]
    folders.append(make("qwen3", tuning="lora").save(tmp_path / "qwen3"))
    backbone, other = AdapterBackbone.load(folders[0]), AdapterBackbone.load(folders[4])
    classifiers = [backbone.classifier(folder) for folder in folders[:3]]
    classifiers += [alone(folders[3]), other.classifier(folders[4])]
    ids, owners = mixed_rows(30, 5)
    assert_near(forward_mixed(ids, [classifiers[owner] for owner in owners]), expect(ids, owners, folders))


def test_who_can_share(make: Make, tmp_path: Path) -> None:
    llama = write_artifacts(make, "llama", tmp_path)
    keys = [share_key(read_info(folder)) for folder in llama]
    assert len(set(keys)) == 1
    assert keys[0] is not None
    full = make("llama").save(tmp_path / "full")
    other = make("qwen3", tuning="lora").save(tmp_path / "other")
    assert share_key(read_info(full)) is None
    assert share_key(read_info(other)) not in keys
    with pytest.raises(ArtifactError, match="a backbone of its own"):
        AdapterBackbone.load(full)
    with pytest.raises(ArtifactError, match="stands on another backbone"):
        AdapterBackbone.load(llama[0]).classifier(other)


def test_a_changed_backbone_or_artifact_is_refused(make: Make, tmp_path: Path) -> None:
    source = write_backbone(tmp_path / "backbone", "llama")
    made = make_classifier(source, tuning="lora")
    folder = made.save(tmp_path / "artifact")
    backbone = AdapterBackbone.load(folder)
    write_backbone(source, "llama", seed=9)
    with pytest.raises(ArtifactError, match="other weights") as caught:
        AdapterBackbone.load(folder)
    assert "\n" not in str(caught.value)
    (folder / "head.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="damaged"):
        backbone.classifier(folder)


def test_the_backbone_goes_with_its_last_classifier(make: Make, tmp_path: Path) -> None:
    folder = make("llama", tuning="lora").save(tmp_path / "a")
    classifier = AdapterBackbone.load(folder).classifier(folder)
    gone = weakref.ref(classifier.runtime.backbone)  # type: ignore[attr-defined]
    assert gone() is not None
    del classifier
    gc.collect()
    assert gone() is None


def test_an_adapter_is_small_beside_its_backbone(shared: tuple[AdapterBackbone, list[Classifier]]) -> None:
    backbone, classifiers = shared
    adapter = classifiers[0].runtime.adapter  # type: ignore[attr-defined]
    # Of rank 2 on the seven linear layers (32 wide, 16 of keys and values, 48 inside) of two layers; head 32 to 1.
    rank_2 = 2 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)
    assert adapter.nbytes == 4 * (2 * rank_2 + 32)
    assert backbone.nbytes > 4 * 2 * (32 * 32 * 2 + 32 * 16 * 2 + 32 * 48 * 3)


def test_a_hundred_adapters_loaded_while_rows_are_computed(make: Make, tmp_path: Path) -> None:
    """Label spaces of 2 to 101 labels, loaded by one thread while another computes."""
    folders = write_many(make("llama", tuning="lora"), 100, tmp_path)
    backbone = AdapterBackbone.load(folders[0])
    classifiers = [backbone.classifier(folders[0])]
    loader = threading.Thread(target=lambda: classifiers.extend(map(backbone.classifier, folders[1:])))
    loader.start()
    generator = np.random.default_rng(1)
    ids = [generator.integers(5, 300, 9).astype(np.int32) for _ in range(200)]
    while loader.is_alive():
        owners = [i % len(classifiers) for i in range(20)]
        forward_mixed(ids[:20], [classifiers[owner] for owner in owners])
    loader.join()
    owners = [i % 100 for i in range(200)]
    got = forward_mixed(ids, [classifiers[owner] for owner in owners])
    assert [len(row) for row in got] == [owner + 2 for owner in owners]
    some = [i for i in range(200) if owners[i] in (0, 50, 99)]
    assert_near([got[i] for i in some], expect([ids[i] for i in some], [owners[i] for i in some], folders))
