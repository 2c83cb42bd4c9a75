from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifacts import write_many
from tiny import TEXTS, Made

from rayclf.config import LoraConfig
from rayclf.errors import ArtifactError, ResourceError
from rayclf.model.engine import Classifier
from rayclf.model.info import find_artifact
from rayclf.model.multi_adapter import AdapterRuntime, forward_mixed
from rayclf.serving.batching import Batcher
from rayclf.serving.host import Host, ModelFolder, UnknownModel

Make = Callable[..., Made]


@pytest.fixture(scope="module")
def hundred(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 100 adapters on one tiny Llama, of 2 to 101 labels. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("hundred")
    write_many(make("llama", tuning="lora", lora=LoraConfig(r=2, target_modules=["q_proj", "v_proj"])), 100, folder)
    return folder


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 120))


async def touch(host: Host, *names: str) -> None:
    for name in names:
        async with host.use(name):
            pass


class Gate:
    """Finds artifacts, but only when it is let."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = threading.Event()

    def __call__(self, place: str) -> Path:
        self.asked.append(Path(place).name)
        assert self.open.wait(30)
        return find_artifact(place)


def test_a_hundred_adapters_on_one_host_answer_in_shared_batches(hundred: Path) -> None:
    async def test() -> None:
        host = Host(ModelFolder(hundred))
        batcher = Batcher(forward_mixed, max_tokens=2048)

        async def ask(name: str, text: str) -> Any:
            async with host.use(name) as classifier:
                return (await batcher.submit(classifier.encode([text]), classifier))[0]

        asked = [(str(i % 100), TEXTS[i % len(TEXTS)]) for i in range(300)]
        answers = await asyncio.gather(*(ask(name, text) for name, text in asked))
        assert [len(answer) for answer in answers] == [int(name) + 2 for name, _ in asked]
        for name in ("0", "42", "99"):
            alone = Classifier.load(hundred / name)
            own = [i for i, (other, _) in enumerate(asked) if other == name]
            expected = alone.logits([asked[i][1] for i in own])
            np.testing.assert_allclose(np.stack([answers[i] for i in own]), expected, atol=1e-5, rtol=0)
        assert sorted(host.loaded, key=int) == [str(i) for i in range(100)]
        assert (host.counters.loads, len(host._backbones)) == (100, 1)
        [backbone] = host._backbones.values()
        assert host.nbytes < 40 * backbone.nbytes
        await batcher.close()
        await host.close()

    run(test)


def test_the_least_recently_used_goes_first_and_comes_back(hundred: Path) -> None:
    async def test() -> None:
        host = Host(ModelFolder(hundred), max_models=2)
        await touch(host, "1", "2", "1", "3")
        assert host.loaded == ["1", "3"]
        await touch(host, "2")
        assert host.loaded == ["3", "2"]
        assert (host.counters.loads, host.counters.evictions) == (4, 2)
        await host.close()

    run(test)


def test_bytes_bound_what_is_held_with_the_backbone(hundred: Path) -> None:
    async def test() -> None:
        host = Host(ModelFolder(hundred), max_models=1)
        await touch(host, "60")
        one = host.nbytes
        await host.close()
        host = Host(ModelFolder(hundred), max_bytes=one + 3 * (one - min_backbone(hundred)))
        await touch(host, *map(str, range(60, 55, -1)))
        assert 3 <= len(host.loaded) <= 4
        assert host.nbytes <= one + 3 * (one - min_backbone(hundred))
        await host.close()
        host = Host(ModelFolder(hundred), max_bytes=100)
        with pytest.raises(ResourceError, match=r"'3' alone has \d+ bytes of weights, the host 100"):
            await touch(host, "3")
        assert (host.loaded, host.counters.load_failures) == ([], 1)
        await host.close()

    run(test)


def min_backbone(hundred: Path) -> int:
    runtime = next(iter(shared(hundred / "60")))
    return runtime.backbone.nbytes


def shared(folder: Path) -> list[AdapterRuntime]:
    from rayclf.model.multi_adapter import AdapterBackbone

    runtime = AdapterBackbone.load(folder).classifier(folder).runtime
    assert isinstance(runtime, AdapterRuntime)
    return [runtime]


def test_what_is_in_use_is_not_evicted_and_a_new_model_waits_for_room(hundred: Path) -> None:
    async def test() -> None:
        host = Host(ModelFolder(hundred), max_models=1)
        async with host.use("1") as classifier:
            waiting = asyncio.ensure_future(touch(host, "2"))
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not done
            assert host.loaded == ["1"]
            async with host.use("1") as again:
                assert again is classifier
        await waiting
        assert host.loaded == ["2"]
        await host.close()

    run(test)


def test_a_model_that_nobody_waits_for_any_more_blocks_no_other(hundred: Path) -> None:
    async def test() -> None:
        host = Host(ModelFolder(hundred), max_models=1)
        async with host.use("1"):
            gone = asyncio.ensure_future(touch(host, "2"))
            await asyncio.sleep(0.2)
            gone.cancel()
            await asyncio.wait([gone])
        await touch(host, "3", "2")
        assert host.loaded == ["2"]
        await host.close()

    run(test)


def test_all_who_wait_share_one_load_and_other_models_answer_meanwhile(hundred: Path) -> None:
    async def test() -> None:
        gate = Gate()
        gate.open.set()
        host = Host(ModelFolder(hundred), find=gate)
        await touch(host, "1")
        gate.open.clear()
        waiting = [asyncio.ensure_future(touch(host, "2")) for _ in range(5)]
        while gate.asked != ["1", "2"]:
            await asyncio.sleep(0.001)
        async with host.use("1") as classifier:
            assert len(await asyncio.to_thread(classifier.predict, TEXTS)) == len(TEXTS)
        waiting[0].cancel()
        await asyncio.wait([waiting[0]])
        assert not any(task.done() for task in waiting[1:])
        gate.open.set()
        await asyncio.gather(*waiting[1:])
        assert gate.asked == ["1", "2"]
        await host.close()

    run(test)


def test_a_model_that_cannot_be_loaded_says_why_and_is_tried_again(make: Make, tmp_path: Path) -> None:
    async def test() -> None:
        folder = make("llama", tuning="lora").save(tmp_path / "a")
        whole = (folder / "head.safetensors").read_bytes()
        (folder / "head.safetensors").write_bytes(whole[:-1])
        host = Host(ModelFolder(tmp_path))
        problems = await asyncio.gather(*(touch(host, "a") for _ in range(3)), return_exceptions=True)
        assert all(isinstance(problem, ArtifactError) for problem in problems)
        assert (host.loaded, host.counters.load_failures) == ([], 1)
        (folder / "head.safetensors").write_bytes(whole)
        await touch(host, "a")
        assert host.loaded == ["a"]
        await host.close()

    run(test)


def test_unknown_names_and_ways_out_of_the_folder_are_refused(hundred: Path) -> None:
    async def test() -> None:
        host = Host(ModelFolder(hundred / "1" / ".."))
        for name in ("nothing", "", ".", "..", "../hundred0", "1/../2", "1\n", "/etc"):
            with pytest.raises(UnknownModel, match="is not served here") as caught:
                await touch(host, name)
            assert "\n" not in str(caught.value)
        await host.close()

    run(test)


def test_a_folder_of_models_lists_artifacts_and_runs(hundred: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "nothing").mkdir()
    models = ModelFolder(tmp_path)
    assert list(models) == []
    (tmp_path / "run" / "artifact").symlink_to(hundred / "1")
    (tmp_path / "plain").symlink_to(hundred / "2")
    assert list(models) == ["plain", "run"]
    assert len(models) == 2
    assert "nothing" not in models
    assert Path(models["run"]) == tmp_path / "run"


def test_whole_models_and_adapters_that_cannot_mix_live_beside_shared_ones(make: Make, tmp_path: Path) -> None:
    async def test() -> None:
        make("llama").save(tmp_path / "full")
        make("llama", tuning="lora").save(tmp_path / "shared")
        folder = make("llama", tuning="lora").save(tmp_path / "alone")
        place = folder / "adapter" / "adapter_config.json"
        config = json.loads(place.read_text())
        config["alpha_pattern"] = {"q_proj": config["lora_alpha"]}
        place.write_text(json.dumps(config))
        rewrite_hashes(folder)
        host = Host(ModelFolder(tmp_path))
        for name in ("full", "shared", "alone"):
            async with host.use(name) as classifier:
                assert isinstance(classifier.runtime, AdapterRuntime) == (name == "shared")
                expected = Classifier.load(tmp_path / name).logits(TEXTS)
                np.testing.assert_allclose(classifier.logits(TEXTS), expected, atol=1e-5, rtol=0)
        whole = sum(p.nbytes for p in make("llama").network.parameters())
        assert host.nbytes > 3 * whole * 0.9
        assert host.evict("full")
        assert not host.evict("full")
        assert host.loaded == ["shared", "alone"]
        await host.close()

    run(test)


def rewrite_hashes(folder: Path) -> None:
    from rayclf.model.info import read_info, write_info

    write_info(folder, read_info(folder))


def test_peek_gives_what_is_in_memory_and_is_no_use_of_it(hundred: Path) -> None:
    async def test() -> None:
        host = Host(ModelFolder(hundred), max_models=2)
        assert host.peek("0") is None
        await touch(host, "0", "1")
        assert isinstance(host.peek("0"), Classifier)
        await touch(host, "2")  # in the place of 0, which was only looked at since
        assert host.loaded == ["1", "2"]
        assert host.peek("0") is None
        await host.close()

    run(test)


def test_a_servers_model_takes_the_runtime_that_pays_for_many_rows(make: Make, tmp_path: Path) -> None:
    async def test() -> None:
        host = Host({"m": str(make("bert").save(tmp_path / "m"))}, settings={"device": "cpu"})
        async with host.use("m") as classifier:
            assert type(classifier.runtime).__name__ == "OnnxRuntime"
        await host.close()

    run(test)
