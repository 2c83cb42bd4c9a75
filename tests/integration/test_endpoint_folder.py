"""An endpoint of several models over real HTTP: keys of a store, a schedule."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fake_endpoint import error
from tiny import Made

import rayclf
from rayclf.demo.lessons import free_port
from rayclf.labels import ProblemType
from rayclf.serving.keys import KeyStore


def test_a_folder_of_models_with_keys_of_a_store_in_and_out_of_its_schedule(
    cluster: None, make: Callable[..., Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYCLF_API_KEY", raising=False)
    monkeypatch.setenv("RAYCLF_HOME", str(tmp_path / "home"))
    store = KeyStore()
    _, whole = store.create("whole")
    _, part = store.create("part", ["flags"])
    models = tmp_path / "models"
    made = {"topics": make("bert"), "flags": make("bert", kind=ProblemType.MULTILABEL)}
    for name, one in made.items():
        one.save(models / name)
    body = {"inputs": ["A cell!"]}
    with (
        rayclf.serve(models, port=free_port(), keys=True, max_models=1, schedule="always") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        error(client.post("/v1/classify", json=body), 401, "unauthorized")
        for name, one in made.items():
            answer = client.post("/v1/classify", json={**body, "model": name}, headers={"x-api-key": whole}).json()
            expected = one.classifier.predict(["A cell!"])[0]
            assert (answer["model"], answer["results"][0]["label"]) == (name, expected.label)
            assert answer["results"][0]["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
        limited = {"x-api-key": part}
        assert [one["id"] for one in client.get("/v1/models", headers=limited).json()["data"]] == ["flags"]
        error(client.post("/v1/classify", json={**body, "model": "topics"}, headers=limited), 403, "forbidden")
        shutil.copytree(models / "topics", models / "late")  # found without a restart
        late = client.post("/v1/classify", json={**body, "model": "late"}, headers={"x-api-key": whole})
        assert late.json()["model"] == "late"

    shut = datetime.now(UTC) + timedelta(days=3)
    with rayclf.serve(models / "topics", port=free_port(), schedule=f"{shut:%a} 08:00-09:00 UTC") as server:
        answer = httpx.post(f"{server.url}/v1/classify", json=body, timeout=60)
        assert f"opens {shut:%a %Y-%m-%d} 08:00 UTC" in error(answer, 503, "closed")
        assert 86_400 < int(answer.headers["retry-after"]) < 4 * 86_400
        assert httpx.get(f"{server.url}/health", timeout=60).status_code == 200
