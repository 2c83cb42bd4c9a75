"""Who reaches what, by the rules of NetworkPolicy: those that select a pod add up, and what none allows is dropped."""

from __future__ import annotations

from typing import Any

import pytest
from manifests import manifest, manifests, pods

RAYCLF = "rayclf"
HEAD = next(pods(manifest("RayCluster", "rayclf")))["labels"]
ENDPOINT = list(pods(manifest("RayService", "rayclf-endpoint")))[-1]["labels"]
REDIS = next(pods(manifest("StatefulSet", "rayclf-redis")))["labels"]
SUBMITTER = list(pods(manifest("RayJob", "rayclf-score")))[-1]["labels"]
OPERATOR = ("kuberay-system", {"app.kubernetes.io/name": "kuberay-operator"})
INGRESS = ("ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"})
PROMETHEUS = ("monitoring", {"app.kubernetes.io/name": "prometheus"})
STRANGER = ("default", {"app": "shell"})
NEIGHBOUR = (RAYCLF, {"app": "shell"})  # in the namespace, but no pod of rayclf


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "more than this reads"
    return selector.get("matchLabels", {}).items() <= labels.items()


def admits(peer: dict[str, Any], namespace: str, labels: dict[str, str]) -> bool:
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace}):
            return False
    elif namespace != RAYCLF:
        return False
    return selects(peer.get("podSelector", {}), labels)


def reaches(source: tuple[str, dict[str, str]], target: dict[str, str], port: int) -> bool:
    policies = [doc["spec"] for doc in manifests("NetworkPolicy") if "Ingress" in doc["spec"]["policyTypes"]]
    chosen = [policy for policy in policies if selects(policy["podSelector"], target)]
    return not chosen or any(
        any(admits(peer, *source) for peer in rule["from"])
        and ("ports" not in rule or port in [entry["port"] for entry in rule["ports"]])
        for policy in chosen
        for rule in policy.get("ingress", [])
    )


@pytest.mark.parametrize("port", [6379, 8265, 10001, 52365, 8076, 22])
@pytest.mark.parametrize("source", [STRANGER, NEIGHBOUR, INGRESS, PROMETHEUS], ids=lambda source: source[0])
@pytest.mark.parametrize("target", [HEAD, ENDPOINT, REDIS], ids=["head", "endpoint", "redis"])
def test_rays_ports_are_closed(source: tuple[str, dict[str, str]], target: dict[str, str], port: int) -> None:
    assert not reaches(source, target, port)


def test_the_endpoint_is_open_to_the_ingress_alone() -> None:
    assert reaches(INGRESS, ENDPOINT, 8000)
    assert not reaches(INGRESS, HEAD, 8000)
    for source in (STRANGER, NEIGHBOUR, PROMETHEUS):
        assert not reaches(source, ENDPOINT, 8000)


def test_those_who_must_get_through_do() -> None:
    for port in (6379, 8265, 10001, 10002, 19999):
        assert reaches((RAYCLF, ENDPOINT), HEAD, port)
    assert reaches((RAYCLF, SUBMITTER), HEAD, 8265)
    assert reaches((RAYCLF, ENDPOINT), REDIS, 6379)
    assert reaches(OPERATOR, HEAD, 8265)
    assert reaches(OPERATOR, ENDPOINT, 8000)
    assert reaches(PROMETHEUS, HEAD, 8080)


def test_a_job_does_not_reach_the_metadata_of_its_node() -> None:
    for doc in manifests("NetworkPolicy"):
        for rule in doc["spec"].get("egress", []):
            for peer in rule["to"]:
                assert "ipBlock" not in peer or "169.254.0.0/16" in peer["ipBlock"]["except"]
    (closed,) = [doc["spec"] for doc in manifests("NetworkPolicy") if not doc["spec"]["podSelector"]]
    assert set(closed["policyTypes"]) == {"Ingress", "Egress"}
