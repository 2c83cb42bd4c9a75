"""``rayclf deploy`` and ``rayclf deployments``: what they pass on, and what they print."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer
from invoking import invoke

from rayclf.cli import deploy, show
from rayclf.errors import ConfigError
from rayclf.serving import deployments
from rayclf.serving.rollout import Deployment, VersionStatus

ONE = VersionStatus(1, "/runs/a", 90, "2026-11-20T12:00:00+00:00", "me@here", "HEALTHY", {"RUNNING": 2})
TWO = VersionStatus(2, "/runs/[b]", 10, "2026-11-20T13:00:00+00:00", "me@here", "HEALTHY", {})
FOUND = Deployment("tickets", "http://127.0.0.1:8000/tickets", "RUNNING", "", None, (ONE, TWO))

app = typer.Typer()
app.command("deploy")(deploy.deploy)
app.add_typer(deploy.app, name="deployments")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, Any]]:
    """What the façade was called with."""
    told: list[tuple[str, Any, Any]] = []

    def fake(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            told.append((name, args, {key: value for key, value in kwargs.items() if value is not None}))
            return [FOUND] if name in ("list_deployments", "restore") else FOUND

        return call

    monkeypatch.setattr(show.console, "width", 200)  # of no terminal it is what the first test found
    for name in ("deploy", "promote", "rollback", "status", "delete", "list_deployments", "restore"):
        monkeypatch.setattr(deployments, name, fake(name))
    return told


def run(*words: str) -> str:
    return invoke(app, *words)


def test_only_what_is_given_is_passed_on(calls: list[Any]) -> None:
    run("deploy", "tickets", "runs/a", "--replicas", "0,4", "--inactive-timeout", "60", "--no-keys", "--traffic", "10")
    expected = {"traffic": 10, "replicas": (0, 4), "inactive_timeout_s": 60, "keys": False}
    assert calls == [("deploy", ("tickets", "runs/a"), expected)]
    run("deploy", "tickets")
    assert calls[1] == ("deploy", ("tickets", None), {"traffic": 100})


def test_each_version_has_a_line_with_its_share_and_replicas(calls: list[Any]) -> None:
    for words in (["list"], ["status", "tickets"], ["promote", "tickets"], ["rollback", "tickets"], ["restore"]):
        _, first, second = run("deployments", *words).splitlines()
        assert first.split() == ["tickets", FOUND.url, "RUNNING", "1", "90", "%", "2", "running", "/runs/a"]
        assert second.split() == ["2", "10", "%", "none", "/runs/[b]"]


def test_json_is_the_same_for_one_and_a_list_for_several(calls: list[Any]) -> None:
    assert json.loads(run("deployments", "status", "tickets", "--json"))["versions"][1]["share"] == 10
    assert json.loads(run("deployments", "list", "--json"))[0]["name"] == "tickets"
    assert json.loads(run("deployments", "delete", "tickets", "--json")) == {"deleted": "tickets"}
    assert run("deployments", "delete", "tickets") == "deleted tickets\n"
    run("deployments", "promote", "tickets", "--traffic", "50")
    assert calls[-1] == ("promote", ("tickets", 50.0), {})


@pytest.mark.parametrize(("text", "pair"), [("0,4", (0, 4)), ("2", (2, 2)), (" 1 , 3 ", (1, 3))])
def test_replicas_are_two_numbers_or_one(text: str, pair: tuple[int, int]) -> None:
    assert deploy.parse_replicas(text) == pair


@pytest.mark.parametrize("text", ["", "a", "1,", "1,2,3", "1-3"])
def test_other_replicas_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--replicas"):
        deploy.parse_replicas(text)
