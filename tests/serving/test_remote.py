"""Versions share the requests, and a replica that dies is no error of the client."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from rayclf.serving import remote
from rayclf.serving.api_errors import ApiError, invalid
from rayclf.serving.remote import RemoteModels, Version, VersionHeader


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PAUSE_S", 0.0)


def version(number: str, *outcomes: Any, share: float = 100.0, models: tuple[str, ...] = ("tickets",)) -> Version:
    """A version whose replicas give these outcomes one after the other, and then the last for ever."""
    queue = list(outcomes) or [f"answer of {number}"]

    async def ask(inputs: list[Any], model: str | None, truncate: bool) -> Any:
        outcome = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(outcome, BaseException):
            raise outcome
        if outcome == "hang":
            await asyncio.sleep(60)
        return outcome

    return Version(number, dict.fromkeys(models, "/nowhere"), ask, share)


def ask(*versions: Version, timeout_s: float = 5, model: str | None = None) -> Any:
    remote_models = RemoteModels(timeout_s)
    remote_models.use(versions)
    return asyncio.run(remote_models.answer(["text"], model))


@given(st.integers(1, 99), st.integers(0, 300))
def test_of_any_hundred_requests_each_version_gets_its_share(share: int, before: int) -> None:
    models = RemoteModels(1)
    models.use([version("1", share=100 - share), version("2", share=share)])
    for _ in range(before):
        models.choose(None)
    assert Counter(models.choose(None).number for _ in range(100))["2"] in (share - 1, share, share + 1)


def test_a_share_of_nothing_gets_nothing_and_a_named_model_goes_where_it_is() -> None:
    models = RemoteModels(1)
    models.use([version("1"), version("2", share=0)])
    assert {models.choose(None).number for _ in range(50)} == {"1"}
    models.use([version("1", share=99), version("2", share=1, models=("tickets", "new"))])
    assert {models.choose("new").number for _ in range(50)} == {"2"}
    assert {models.choose("tickets").number for _ in range(200)} == {"1", "2"}


def test_a_request_whose_replica_died_is_sent_to_another() -> None:
    assert ask(version("1", ActorDiedError(), DeploymentUnavailableError("x"), "yes")) == "yes"


def test_when_all_die_it_is_an_honest_503() -> None:
    with pytest.raises(ApiError, match="try again") as caught:
        ask(version("1", ActorDiedError()))
    assert caught.value.status == 503
    assert int(caught.value.headers["Retry-After"]) >= 1


def test_what_a_replica_refused_is_told_as_it_said() -> None:
    refused = RayTaskError("answer", "a traceback", invalid("inputs: too long"))
    with pytest.raises(ApiError, match="inputs: too long") as caught:
        ask(version("1", refused, "never asked"))
    assert caught.value.status == 422


def test_a_fault_of_the_model_is_not_asked_for_twice() -> None:
    with pytest.raises(RayTaskError):
        ask(version("1", RayTaskError("answer", "a traceback", ValueError("x")), "never asked"))


@pytest.mark.parametrize(
    ("versions", "code"),
    [
        ([version("1", "hang")], "timeout"),
        ([version("1", BackPressureError(num_queued_requests=1, max_queued_requests=1))], "overloaded"),
        ([], "starting"),
    ],
    ids=["timeout", "overloaded", "starting"],
)
def test_every_other_wait_ends_in_a_503(versions: list[Version], code: str) -> None:
    with pytest.raises(ApiError) as caught:
        ask(*versions, timeout_s=0.05)
    assert (caught.value.status, caught.value.code) == (503, code)


def test_unknown_models_are_404() -> None:
    models = RemoteModels(1)
    models.use([version("1")])
    for name in ("other", "tickets"):  # the second is known, and not there
        with pytest.raises(ApiError) as caught:
            asyncio.run(models.model(name))
        assert caught.value.status == 404


def test_the_answer_says_which_version_gave_it() -> None:
    models = RemoteModels(1)
    models.use([version("7")])
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/v1/classify":
            await models.answer(["text"], None)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    for path in ("/v1/classify", "/health"):
        asyncio.run(VersionHeader(app)({"type": "http", "path": path}, None, send))  # type: ignore[arg-type]
    assert [message["headers"] for message in sent] == [[(b"x-model-version", b"7")], []]


def test_the_ingress_process_needs_no_pytorch() -> None:
    look = "import sys, rayclf.serving.remote; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], cwd=Path(__file__).parents[2], check=False).returncode == 0
