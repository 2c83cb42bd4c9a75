"""The API does what its OpenAPI description says, for requests that schemathesis draws from the description itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import schemathesis
from fake_endpoint import FakeEndpoint
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tiny import Made

from rayclf.labels import ProblemType
from rayclf.serving.guarded import Guarded
from rayclf.serving.http import make_api
from rayclf.serving.keyring import Keyring
from rayclf.serving.keys import digest_of
from rayclf.serving.limits import Limits
from rayclf.serving.metrics import Metrics

KEY = "a-key-that-is-right"


@pytest.fixture(scope="module")
def described(make: Callable[..., Made]) -> Any:
    """The description of the whole application, in front of two tiny classifiers."""
    models = FakeEndpoint(topics=make("bert"), flags=make("bert", kind=ProblemType.MULTILABEL))
    limits, metrics = Limits(max_body_bytes=100_000), Metrics()  # type: ignore[call-arg]
    app = make_api(Guarded(models, limits, None, metrics), Keyring(None, digest_of(KEY)), limits, metrics)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_requests_drawn_from_the_description(described: Any) -> None:
    """No 500, only the status codes, media types and forms that are described, and no request passes without a key."""
    seen = set()
    for operation in (found.ok() for found in described.get_all_operations()):
        seen.add(operation.label)

        @given(case=operation.as_strategy())
        @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
        def check(case: Any) -> None:
            # What suits the model at hand (not empty, no chat, a shape that fits) no description can tell.
            case.call_and_validate(
                headers={"Authorization": f"Bearer {KEY}"}, excluded_checks=[positive_data_acceptance]
            )

        check()
    assert {"POST /v1/classify", "POST /classify", "POST /predict", "POST /v2/models/{model}/infer"} <= seen
