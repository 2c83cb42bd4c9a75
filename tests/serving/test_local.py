"""Models of this process: the classifier's own numbers, and every failure as an answer for HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import TEXTS, Made

from rayclf.labels import ProblemType
from rayclf.serving.api_errors import ApiError
from rayclf.serving.batching import BatchReport, Expired, Overloaded
from rayclf.serving.local import LocalModels


@pytest.fixture(scope="module")
def paths(make: Callable[..., Made], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Artifacts by name."""
    folder = tmp_path_factory.mktemp("models")
    made = {"topics": make("bert"), "flags": make("bert", kind=ProblemType.MULTILABEL)}
    return {name: str(one.save(folder / name)) for name, one in made.items()}


async def started(paths: dict[str, str], **settings: object) -> LocalModels:
    models = LocalModels(paths, **settings)  # type: ignore[arg-type]
    await models.start()
    return models


def test_answers_are_those_of_the_classifiers(paths: dict[str, str], make: Callable[..., Made]) -> None:
    batches: list[BatchReport] = []

    async def run() -> None:
        models = await started(paths, report=batches.append)
        first, second = await asyncio.gather(models.answer(TEXTS, None), models.answer(TEXTS, "flags"))
        for answer, name, made in ((first, "topics", make("bert")), (second, "flags", flags)):
            assert answer.model == name
            assert np.allclose(answer.probabilities, made.classifier.probabilities(TEXTS), atol=1e-5)
            assert answer.tokens == [len(row) for row in made.classifier.encode(TEXTS)]
        await models.close()

    flags = make("bert", kind=ProblemType.MULTILABEL)
    asyncio.run(run())
    assert sum(batch.rows for batch in batches) == 1 + 2 * len(TEXTS)  # one to warm up


def test_the_facts_of_models(paths: dict[str, str]) -> None:
    async def run() -> None:
        models = LocalModels(paths)
        assert [facts.ready for facts in await models.models()] == [False, False]
        await models.start()
        assert [facts.name for facts in await models.models()] == ["topics", "flags"]
        assert (await models.model(None)).name == "topics"
        assert (await models.model("flags")).info.space.problem_type is ProblemType.MULTILABEL
        assert (await models.model("flags")).ready
        await models.close()

    asyncio.run(run())


async def refused(models: LocalModels, *, inputs: list[str] | None = None, model: str | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await models.answer(inputs or ["A cell!"], model, truncate=False)
    return caught.value


def test_refusals(paths: dict[str, str], tmp_path: Path) -> None:
    async def run() -> None:
        models = LocalModels({**paths, "gone": str(tmp_path / "gone")})
        early = await refused(models)
        assert (early.status, early.code, early.headers["Retry-After"]) == (503, "starting", "1")
        await models.start()
        assert (await refused(models, model="none")).status == 404
        long = await refused(models, inputs=["A cell!", "the " * 80])
        assert (long.status, str(long).split(":")[0]) == (422, "inputs[1]")
        assert str(long) == "inputs[1]: 82 tokens are too many for this model, which reads 64"
        with pytest.raises(ApiError, match="'gone' cannot be read"):
            await models.model("gone")
        pair = await refused(models, inputs=[("a", "b")])  # type: ignore[list-item]
        assert (pair.status, str(pair)[:8]) == (422, "inputs: ")
        await models.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "code", "after"), [(Overloaded("full", 7), "overloaded", "7"), (Expired("late"), "timeout", "1")]
)
def test_what_the_batcher_refuses_is_503(
    paths: dict[str, str], error: Exception, code: str, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise error

    async def run() -> None:
        models = await started(paths)
        with monkeypatch.context() as patch:
            patch.setattr(models.batcher, "submit", refuse)
            answer = await refused(models)
        assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, code, after)
        await models.close()

    asyncio.run(run())


def test_one_model_in_memory_at_a_time(paths: dict[str, str]) -> None:
    async def run() -> None:
        models = await started(paths, max_models=1)
        for name in ("flags", "topics", "flags"):
            assert (await models.answer(["A cell!"], name)).model == name
            assert models.host.loaded == [name]
        assert models.host.counters.evictions == 3
        await models.close()

    asyncio.run(run())
