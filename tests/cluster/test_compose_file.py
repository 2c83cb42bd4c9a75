"""The compose file is one by its specification, and opens nothing beyond this machine."""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import jsonschema
import pytest
import yaml
from manifests import ROOT

FILE = ROOT / "cluster" / "compose.yaml"


@pytest.fixture
def compose() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return config


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The Compose Specification's own, as check-jsonschema keeps it."""
    vendor = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    found: dict[str, Any] = json.loads((vendor / "compose-spec.json").read_text())
    return found


def test_it_is_a_compose_file(compose: dict[str, Any], schema: dict[str, Any]) -> None:
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(compose)
    compose["services"]["s3"]["port"] = ["8333:8333"]
    assert not validator.is_valid(compose)


def test_ports_are_those_of_this_machine(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_secrets_have_no_default(compose: dict[str, Any]) -> None:
    for name, rest in re.findall(r"\$\{(\w+)([^}]*)\}", FILE.read_text()):
        assert not rest or rest.startswith(":?"), f"{name} has a default"
    assert compose["services"]["ray"]["environment"]["RAY_AUTH_MODE"] == "token"
    identities = json.loads(compose["configs"]["s3"]["content"])["identities"]
    assert [one["credentials"][0]["secretKey"] for one in identities] == ["${S3_SECRET_KEY}"]


def test_images_are_pinned_and_services_wait_for_what_they_need(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        assert "build" in service or re.search(r":\d[\w.-]*$", service["image"])
        for needed, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[needed]
    assert set(re.findall(r"mlflow==([\d.]+)", FILE.read_text())) == set(
        re.findall(r"mlflow-skinny==([\d.]+)", (ROOT / "constraints.txt").read_text())
    ), "the server is not of the client's version"
