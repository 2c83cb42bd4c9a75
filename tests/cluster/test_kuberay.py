"""Kubernetes would take the manifests, and they keep what docs/concepts/security.md promises."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import RAY_KINDS, ROOT, check_ray, manifest, manifests, pods, ray_spec

import rayclf

FOREIGN = ("PodMonitor", "ResourceFlavor", "ClusterQueue", "LocalQueue")  # of operators whose schemas are not here
CLUSTERS = [doc for doc in manifests(*RAY_KINDS) if ray_spec(doc)]
PODS = [pod for doc in manifests() for pod in pods(doc)]


def named(value: Any) -> str:
    return f"{value['kind']}-{value['metadata']['name']}" if isinstance(value, dict) and "kind" in value else ""


def pod_name(pod: dict[str, Any]) -> str:
    return "-".join([pod["labels"]["app.kubernetes.io/name"], pod["spec"]["containers"][0]["name"]])


def secret_names(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from secret_names(part)
    elif isinstance(value, dict):
        if key in ("secretKeyRef", "secretRef"):
            yield value["name"]
        for inner, part in value.items():
            yield from secret_names(part, inner)
    elif key == "secretName":
        yield value


@pytest.mark.parametrize("doc", manifests(*RAY_KINDS), ids=named)
def test_kuberay_takes_it(doc: dict[str, Any]) -> None:
    check_ray(doc)


@pytest.mark.parametrize("doc", [doc for doc in manifests() if doc["kind"] not in RAY_KINDS + FOREIGN], ids=named)
def test_kubernetes_takes_it(doc: dict[str, Any]) -> None:
    kubernetes_validate.validate(doc, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("pod", PODS, ids=pod_name)
def test_kubernetes_takes_its_pods(pod: dict[str, Any]) -> None:
    doc = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod["spec"]}
    kubernetes_validate.validate(doc, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    ("field", "value"), [("rayVersionn", "2.60.0"), ("authOptions", {"mode": "tokens"}), ("workerGroupSpecs", [{}])]
)
def test_a_mistake_is_found(field: str, value: Any) -> None:
    doc = manifest("RayCluster", "rayclf")
    doc["spec"][field] = value
    with pytest.raises(jsonschema.ValidationError):
        check_ray(doc)


@pytest.mark.parametrize("doc", CLUSTERS, ids=named)
def test_ray_asks_for_the_token_and_is_not_public(doc: dict[str, Any]) -> None:
    spec = ray_spec(doc)
    assert spec is not None
    assert spec["authOptions"] == {"mode": "token", "secretName": "rayclf-token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not spec["headGroupSpec"].get("enableIngress")


@pytest.mark.parametrize("doc", CLUSTERS, ids=named)
def test_the_head_does_no_work_and_ray_is_the_pinned_one(doc: dict[str, Any]) -> None:
    spec = ray_spec(doc)
    assert spec is not None
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert f"ray=={spec['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_gpu_workers_of_the_cluster_come_and_go() -> None:
    spec = manifest("RayCluster", "rayclf")["spec"]
    assert spec["enableInTreeAutoscaling"]
    for group in spec["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]


@pytest.mark.parametrize("pod", PODS, ids=pod_name)
def test_pods_are_confined(pod: dict[str, Any]) -> None:
    """As the namespace's Pod Security level demands (https://kubernetes.io/docs/concepts/security/pod-security-standards)."""
    user = pod["spec"]["securityContext"]
    assert user["runAsNonRoot"]
    assert user["runAsUser"] > 0
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["spec"]["containers"]:
        context, resources = container["securityContext"], container["resources"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(resources["requests"]) & set(resources["limits"])
        assert re.search(r":\d[\w.-]*$", container["image"]), "an image without a version"


def test_no_secret_is_written_down() -> None:
    for pod in PODS:
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                if re.search("KEY|SECRET|TOKEN|PASSWORD", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"]
    assert not manifests("Secret")


def test_what_is_referred_to_is_there() -> None:
    """Other objects in a manifest, secrets in the page that says how to make them."""
    there = {(doc["kind"], doc["metadata"]["name"]) for doc in manifests()}
    page = (ROOT / "docs" / "how-to" / "cluster.md").read_text()
    secrets = set(secret_names(manifests()))
    assert {"rayclf-token", "rayclf-s3", "rayclf-keys", "rayclf-redis"} <= secrets
    for name in secrets:
        assert name in page, name
    for pod in PODS:
        for volume in pod["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in there
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
        account = pod["spec"].get("serviceAccountName")
        assert account is None or ("ServiceAccount", account) in there
    for doc in manifests("PodDisruptionBudget", "NetworkPolicy", "PodMonitor"):
        labels = (doc["spec"].get("selector") or doc["spec"]["podSelector"]).get("matchLabels", {})
        assert any(labels.items() <= pod["labels"].items() for pod in PODS), doc["metadata"]["name"]


@pytest.mark.parametrize("job", ["train", "score"])
def test_jobs_run_a_script_on_settings_that_it_takes(job: str) -> None:
    spec = manifest("RayJob", f"rayclf-{job}")["spec"]
    python, script, settings = spec["entrypoint"].split()
    assert (python, script, settings) == ("python", f"/app/jobs/{job}.py", f"/etc/rayclf/{job}.yaml")
    assert (ROOT / "jobs" / f"{job}.py").is_file()
    given = yaml.safe_load(manifest("ConfigMap", "rayclf-jobs")["data"][f"{job}.yaml"])
    assert set(given) <= set(inspect.signature(getattr(rayclf, job)).parameters)
    assert set(yaml.safe_load(spec["runtimeEnvYAML"])) == {"env_vars"}


def test_the_training_job_asks_for_as_many_workers_as_its_cluster_has() -> None:
    (group,) = manifest("RayJob", "rayclf-train")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    settings = yaml.safe_load(manifest("ConfigMap", "rayclf-jobs")["data"]["train.yaml"])
    assert group["replicas"] == group["minReplicas"] == settings["config"]["resources"]["workers"]


def test_the_scoring_job_finds_its_cluster() -> None:
    name = manifest("RayJob", "rayclf-score")["spec"]["clusterSelector"]["ray.io/cluster"]
    assert manifest("RayCluster", name)


def test_the_ingress_leads_to_the_endpoint_alone() -> None:
    """Services are called after what they are of: a cluster and an endpoint of one name would share their head's."""
    names = [doc["metadata"]["name"] for doc in manifests("RayCluster", "RayService")]
    assert len(set(names)) == len(names)
    (ingress,) = manifests("Ingress")
    backends = [path["backend"]["service"] for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
    assert backends == [{"name": "rayclf-endpoint-serve-svc", "port": {"number": 8000}}]
    assert manifest("RayService", "rayclf-endpoint")
    assert {host for tls in ingress["spec"]["tls"] for host in tls["hosts"]} == {
        rule["host"] for rule in ingress["spec"]["rules"]
    }


def test_serve_takes_the_endpoint() -> None:
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    from rayclf.serving.app import from_config

    spec = manifest("RayService", "rayclf-endpoint")["spec"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = config.applications
    assert application.import_path == f"{from_config.__module__}:{from_config.__name__}"
    built = from_config(application.args)
    assert built is not None
    assert AutoscalingConfig(max_replicas=application.args["replicas"][1])
    (group,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    assert group["maxReplicas"] >= application.args["replicas"][1]
    assert application.args["key_store"], "an endpoint without keys"
