"""The testing page in a real browser, before the real endpoint."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from browser import Browser, find_browser
from tiny import Made

import rayclf
from rayclf.data.texts import TextSource
from rayclf.demo.lessons import free_port
from rayclf.labels import ProblemType
from rayclf.serving.keys import KeyStore

TEXT = 'It\'s void; "really" $HOME, since no party had signed it: <b>ü</b> 漢.'


@pytest.fixture(scope="module")
def program() -> str:
    """The browser."""
    found = find_browser()
    if found is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    return found


@pytest.fixture(scope="module")
def folder(make: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models: of one text each, and of pairs."""
    place = tmp_path_factory.mktemp("models")
    make("bert").save(place / "topics")
    make("bert", kind=ProblemType.MULTILABEL, thresholds=[0.0, 0.0, 1.0, 1.0]).save(place / "flags")
    make("bert", kind=ProblemType.BINARY, reads=TextSource(text="a", text_pair="b")).save(place / "pairs")
    return place


@pytest.fixture(scope="module")
def served(
    cluster: None, program: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str]]:
    """The endpoint's address, and a key."""
    home = tmp_path_factory.mktemp("home")
    _, key = KeyStore(home / "keys.json").create("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCLF_HOME", str(home))
        patch.delenv("RAYCLF_API_KEY", raising=False)
        with rayclf.serve(folder, port=free_port(), keys=True) as server:
            yield server.url, key


@pytest.fixture
def browser(program: str, tmp_path: Path) -> Iterator[Browser]:
    with Browser(program, tmp_path / "profile") as browser:
        yield browser


def text_of(browser: Browser, name: str) -> str:
    return str(browser.run(f"document.getElementById('{name}').innerText"))


def visible(name: str) -> str:
    return f"document.getElementById('{name}').checkVisibility()"


def pick(browser: Browser, model: str) -> None:
    browser.run(f"document.getElementById('model').value = '{model}'; null")
    browser.run("document.getElementById('model').dispatchEvent(new Event('change'))")


def enter(browser: Browser, url: str, key: str) -> None:
    """Open the page, give the key, and go on to the text by keyboard alone."""
    browser.open(url)
    browser.until("document.activeElement.id === 'key'")
    assert not browser.run(visible("error"))  # nothing is wrong yet
    browser.type(key)
    browser.press("Tab")
    browser.until("document.getElementById('model').options.length === 3")
    assert browser.run("document.activeElement.id") == "text"


def test_a_text_by_keyboard_and_the_calls_that_did_it(browser: Browser, served: tuple[str, str]) -> None:
    url, key = served
    enter(browser, url, key)
    assert browser.run("[...document.getElementById('model').options].map(o => o.text)") == ["flags", "pairs", "topics"]
    pick(browser, "topics")
    assert text_of(browser, "about").startswith("multiclass, 3 labels, ")
    browser.run("document.getElementById('text').focus()")
    browser.type(TEXT)
    browser.press("Tab")
    browser.press("Enter")
    browser.until(visible("answer"))
    body = {"inputs": [TEXT], "model": "topics"}
    answer = httpx.post(f"{url}/v1/classify", json=body, headers={"x-api-key": key}, timeout=60).json()
    result = answer["results"][0]
    assert text_of(browser, "label") == result["label"]
    rows = browser.run("[...document.querySelectorAll('#bars tr')].map(r => r.innerText.split('\\t'))")
    shown = {row[0]: float(row[-1]) for row in rows}
    assert shown == pytest.approx(result["probabilities"], abs=1e-3)
    assert list(shown) == list(result["probabilities"])
    widths = browser.run(
        "[...document.querySelectorAll('.bar div')].map(d => d.offsetWidth / d.parentElement.offsetWidth)"
    )
    assert widths == pytest.approx(list(shown.values()), abs=0.02)
    assert browser.run("document.querySelectorAll('tr.holds').length") == 1
    assert f"{answer['usage']['tokens']} tokens" in text_of(browser, "took")

    curl = text_of(browser, "curl")
    assert key not in curl
    assert curl.count("$RAYCLF_API_KEY") == 1
    if subprocess.run(["which", "curl"], capture_output=True, check=False).returncode == 0:
        told = subprocess.run(
            ["bash", "-c", f"{curl} -s"], env={"RAYCLF_API_KEY": key}, capture_output=True, check=True
        )
        assert json.loads(told.stdout)["results"][0]["label"] == result["label"]
    else:
        assert json.loads(shlex.split(curl)[-1])["inputs"] == [TEXT]
    python = text_of(browser, "python")
    assert key not in python
    scope: dict[str, object] = {}
    call = python.replace('"…"', repr(key)).replace("client.classify", "found = client.classify")
    exec(call, scope)  # what a user would paste
    assert scope["found"][0].label == result["label"]  # type: ignore[index]
    assert browser.problems == ["Failed to load resource: the server responded with a status of 401 (Unauthorized)"]


def test_a_pair_and_many_labels_that_hold(browser: Browser, served: tuple[str, str]) -> None:
    enter(browser, *served)
    browser.type("A cell!")
    pick(browser, "flags")
    browser.run("document.getElementById('text').focus()")
    browser.press("Enter", control=True)
    browser.until(visible("answer"))
    assert set(text_of(browser, "label").split(", ")) == {"a", "b"}
    assert browser.run("document.querySelectorAll('tr.holds').length") == 2
    pick(browser, "pairs")
    assert not browser.run(visible("answer"))  # it was of the other model
    browser.run("document.getElementById('pair').focus()")
    browser.type("Energy.")
    browser.press("Enter", control=True)
    browser.until(visible("answer"))
    assert re.fullmatch("(not )?spam", text_of(browser, "label"))


def test_errors(browser: Browser, served: tuple[str, str], folder: Path) -> None:
    url, key = served
    browser.open(url)
    browser.until("document.activeElement.id === 'key'")
    browser.type("wrong")
    browser.press("Tab")
    browser.until(visible("error"))
    assert text_of(browser, "error").startswith("missing or wrong API key")
    enter(browser, url, key)
    pick(browser, "pairs")
    browser.run("document.getElementById('text').focus()")
    browser.type("A cell!")
    browser.press("Enter", control=True)
    browser.until(visible("error"))
    assert text_of(browser, "error") == "inputs[0][1]: Text should not be empty"
    assert not browser.run(visible("answer"))
    assert browser.run("document.getElementById('go').ariaBusy") == "false"


def test_nothing_but_the_page_may_run(browser: Browser, served: tuple[str, str]) -> None:
    browser.open(served[0])
    browser.run("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 2\">')")
    browser.run("fetch('https://example.invalid/').catch(() => null)")
    browser.until("document.readyState === 'complete'")
    assert browser.run("window.ran") is None
    assert any("Content Security Policy" in problem for problem in browser.problems)
