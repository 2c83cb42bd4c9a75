"""Ray's launcher would take the files, and nothing in them is open to strangers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from manifests import ROOT
from ray.autoscaler._private.util import prepare_config, validate_config

NAMES = ("aws", "gcp")


def check(config: dict[str, Any]) -> None:
    """What ``ray up`` does before it asks the cloud anything: fill in defaults, hold against Ray's schema."""
    validate_config(prepare_config(config))


def read(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())
    return config


@pytest.mark.parametrize("name", NAMES)
def test_ray_takes_it(name: str) -> None:
    check(read(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_is_found(name: str) -> None:
    with pytest.raises(Exception, match="idle_timeout_minute"):
        check(read(name) | {"idle_timeout_minute": 5})


@pytest.mark.parametrize("name", NAMES)
def test_gpu_workers_are_spot_machines_that_come_and_go(name: str) -> None:
    config = read(name)
    gpu, head = config["available_node_types"]["gpu"], config["available_node_types"][config["head_node_type"]]
    assert gpu["min_workers"] == 0 < gpu["max_workers"]
    assert gpu["resources"]["GPU"] > 0
    assert head["resources"] == {"CPU": 0}
    assert config["idle_timeout_minutes"] <= 10
    told = str(gpu["node_config"]).lower()
    assert "spot" in told
    assert "spot" not in str(head["node_config"]).lower()


@pytest.mark.parametrize("name", NAMES)
def test_ray_asks_for_the_token_and_is_not_public(name: str) -> None:
    config = read(name)
    assert config["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    for role in ("head", "worker"):
        *_, start = config[f"{role}_start_ray_commands"]
        assert start.index("export RAY_AUTH_MODE=token;") < start.index("ray start")
    assert "--dashboard-host=127.0.0.1" in start_of_head(config)
    assert "IpPermissions" not in config["provider"].get("security_group", {}), "a port is opened"
    assert "SECRET" not in (ROOT / "cluster" / f"{name}.yaml").read_text()


def start_of_head(config: dict[str, Any]) -> str:
    return str(config["head_start_ray_commands"][-1])


def test_aws_machines_guard_their_role() -> None:
    for node in read("aws")["available_node_types"].values():
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert node["node_config"]["IamInstanceProfile"]
