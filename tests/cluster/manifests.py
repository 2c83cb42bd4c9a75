"""The manifests of ``cluster/kuberay``, and KubeRay's own schemas to hold them against."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kuberay"
SCHEMAS = Path(__file__).parent / "schemas" / "kuberay.json.gz"  # says where it comes from
RAY_KINDS = ("RayCluster", "RayJob", "RayService")


@cache
def _read() -> str:
    documents = [doc for file in sorted(FOLDER.glob("*.yaml")) for doc in yaml.safe_load_all(file.read_text())]
    return json.dumps(documents)


def manifests(*kinds: str) -> list[dict[str, Any]]:
    """All manifests, or those of some kinds; a fresh copy, with YAML's anchors resolved."""
    documents: list[dict[str, Any]] = json.loads(_read())
    return [doc for doc in documents if not kinds or doc["kind"] in kinds]


def manifest(kind: str, name: str) -> dict[str, Any]:
    """One manifest."""
    (found,) = [doc for doc in manifests(kind) if doc["metadata"]["name"] == name]
    return found


def ray_spec(doc: Mapping[str, Any]) -> dict[str, Any] | None:
    """The spec of the cluster that a manifest makes; None for a job on a cluster that is there."""
    spec = doc["spec"]
    found: dict[str, Any] | None = {
        "RayCluster": spec,
        "RayJob": spec.get("rayClusterSpec"),
        "RayService": spec.get("rayClusterConfig"),
    }[doc["kind"]]
    return found


def pods(doc: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Pods as they would be: labels, among them those that KubeRay adds, and spec."""
    if doc["kind"] in RAY_KINDS:
        ray = ray_spec(doc) or {}
        groups = [("head", ray[key]) for key in ("headGroupSpec",) if key in ray]
        groups += [("worker", group) for group in ray.get("workerGroupSpecs", [])]
        for role, group in groups:
            template = group["template"]
            yield {"labels": {**template["metadata"]["labels"], "ray.io/node-type": role}, "spec": template["spec"]}
        if "submitterPodTemplate" in doc["spec"]:
            template = doc["spec"]["submitterPodTemplate"]
            yield {"labels": template["metadata"]["labels"], "spec": template["spec"]}
    elif doc["kind"] == "StatefulSet":
        template = doc["spec"]["template"]
        yield {"labels": template["metadata"]["labels"], "spec": template["spec"]}


def check_ray(doc: Mapping[str, Any]) -> None:
    """Raise ValidationError for a manifest that KubeRay's definitions do not take; a field they do not know is one."""
    schema = _strict(json.loads(gzip.decompress(SCHEMAS.read_bytes())))
    whole = {"definitions": schema["definitions"], **schema["kinds"][doc["kind"]]}
    jsonschema.Draft7Validator(whole).validate(doc)


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(part) for key, part in schema.items()}
    known = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if known and "x-kubernetes-preserve-unknown-fields" not in schema:
        strict.setdefault("additionalProperties", False)
    return strict
