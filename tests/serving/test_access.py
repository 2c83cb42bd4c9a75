"""The line of a request: what is in it, what is never in it, and where it goes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from rayclf.errors import OutputError
from rayclf.serving.access import Access, note, open_log
from rayclf.serving.api_errors import Message, Receive, Scope, Send
from rayclf.serving.metrics import Metrics


@pytest.fixture(autouse=True)
def closed_log() -> Iterator[None]:
    """Take the handlers away again: the logger is the process's."""
    yield
    log = logging.getLogger("rayclf.access")
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()


def call(app: Any, metrics: Metrics, where: str, scope: dict[str, Any] | None = None) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        pass

    whole = {"type": "http", "method": "POST", "path": "/a/text", **(scope or {})}
    anyio.run(Access(app, metrics, open_log(where)), whole, receive, send)


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    note(model="it", tokens=7)
    scope["state"] = {"request_id": "r1"}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_a_line_of_json(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    call(answer, Metrics(), str(file))
    call(answer, Metrics(), str(file), {"method": "MY-OWN"})
    first, second = map(json.loads, file.read_text().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first.pop("milliseconds") >= 0
    assert first == {"request_id": "r1", "method": "POST", "route": "", "status": 200, "model": "it", "tokens": 7}
    assert second["method"] == "other"


def test_a_moved_file_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    log = open_log(str(file))
    assert log is not None
    log.info("one")
    file.rename(tmp_path / "old")
    log.info("two")
    assert file.read_text() == "two\n"


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    call(answer, Metrics(), "1")
    assert json.loads(capsys.readouterr().out)["status"] == 200


@pytest.mark.parametrize("where", ["", "0"])
def test_off(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert open_log(where) is None
    metrics = Metrics()
    call(answer, metrics, where)
    assert capsys.readouterr().out == ""
    assert b'rayclf_http_requests_total{method="POST",route="",status="200"} 1.0' in metrics.text()


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="^RAYCLF_ACCESS_LOG=.*No such file or directory.*name a file, or 1$"):
        open_log(str(tmp_path / "none" / "access.jsonl"))


def test_a_client_that_has_gone(tmp_path: Path) -> None:
    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    file, metrics = tmp_path / "access.jsonl", Metrics()
    call(never, metrics, str(file))
    assert json.loads(file.read_text())["status"] == 499


def test_a_note_outside_of_a_request_goes_nowhere() -> None:
    note(model="it")
