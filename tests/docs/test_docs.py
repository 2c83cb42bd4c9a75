"""The documentation is true: its commands run, its links lead somewhere, the reference is that of the code."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import ModuleType

import pytest

from rayclf.demo.lessons import data_file

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TRAINING = re.compile(r"rayclf train (?P<data>\S+) -o (?P<run>\S+)(?P<flags>.*)")
RUNNABLE = [page for page in PAGES if "```console\n$ " in page.read_text() and page.parent.name != "reference"]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the pages speak of, and ``rayclf`` on the path."""
    for name in ("questions.csv", "corpus.csv", "support.jsonl"):
        shutil.copy(data_file(name), tmp_path / name)
    return tmp_path


@pytest.fixture(scope="session")
def runs() -> dict[tuple[str, str], Path]:
    """The runs that pages have trained so far, by data and flags: several begin with the same one, a minute's work."""
    return {}


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, folder: Path, runs: dict[tuple[str, str], Path]) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    background: list[subprocess.Popen[bytes]] = []
    try:
        for block in blocks(page, "console"):
            for line in block.splitlines():
                command = line.removeprefix("$ ")
                if command.endswith(" &"):
                    words = command.removesuffix(" &").split()
                    background.append(subprocess.Popen(words, cwd=folder, env=environment))
                    wait_for(f"http://127.0.0.1:{words[words.index('--port') + 1]}/health", background[-1])
                    continue
                training = TRAINING.fullmatch(command)
                if training is not None and (done := runs.get(training.group("data", "flags"))) is not None:
                    shutil.copytree(done, folder / training["run"])
                    continue
                result = subprocess.run(
                    command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
                )
                assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
                assert "Traceback" not in result.stderr
                if training is not None:
                    runs[training.group("data", "flags")] = folder / training["run"]
                if command.startswith("curl"):
                    assert '"probabilities"' in result.stdout or '"problem_type"' in result.stdout
    finally:
        for process in background:
            process.terminate()
            assert process.wait(60) in (0, 130, -15)
    if page.name == "README.md":
        (python,) = blocks(page, "python")
        subprocess.run([sys.executable, "-c", python], cwd=folder, env=environment, check=True)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Until ``url`` answers; fails when the process ends first."""
    for _ in range(600):
        assert process.poll() is None, "the server ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"{url} does not answer")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "cli.md"])
def test_the_reference_is_up_to_date(name: str) -> None:
    expected = generator().PAGES[name]()
    assert (ROOT / "docs" / "reference" / name).read_text() == expected, "run: python docs/generate.py"


def test_a_wheel_works_as_the_checkout_does(tmp_path: Path) -> None:
    """Build it, install it apart, and use its command and demo data from elsewhere."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"
    names = ("rayclf", "pyproject.toml", "README.md", "LICENSE")
    for name in names:
        here = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(here, source / name, ignore=ignore) if here.is_dir() else shutil.copy(here, source / name)
    wheels = tmp_path / "wheels"
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source], check=True)
    (wheel,) = wheels.glob("rayclf-*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    code = (
        "import rayclf, rayclf.demo.lessons as l; print(rayclf.__file__);"
        "print(all(l.data_file(n).is_file() for n in ('questions.csv', 'support.jsonl', 'corpus.csv', 'LICENSE')))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told[0].startswith(str(site))
    assert told[1] == "True"
    result = subprocess.run(
        [sys.executable, site / "bin" / "rayclf", "train", "nowhere.csv", "-o", "x"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (2, "error: nowhere.csv: no such file or folder\n")
