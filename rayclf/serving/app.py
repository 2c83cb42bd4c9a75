"""The Ray Serve application: HTTP in, batches to the classifier, answers out."""

import asyncio
import hashlib
import hmac
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from ray import serve

import rayclf
from rayclf.data.texts import Form
from rayclf.data.tokens import Ids
from rayclf.errors import DataError
from rayclf.labels import Floats
from rayclf.model.engine import Classifier, Input
from rayclf.model.runtime import Precision
from rayclf.serving.protocol import ClassifyRequest, ClassifyResponse, error_line, plain_inputs, respond

KEY_VARIABLE = "RAYCLF_API_KEY"
_DIGEST_VARIABLE = "RAYCLF_API_KEY_SHA256"  # of the replica's own process
_MOST_TEXTS, _WAIT_S = 64, 0.005
_FIRST: dict[Form, Input] = {
    "text": "ready",
    "pair": ("ready", "ready"),
    "messages": [{"role": "user", "content": "ready"}],
}

api = FastAPI(title="rayclf", version=rayclf.__version__, description="Text classification by a fine-tuned model.")
_bearer = HTTPBearer(auto_error=False, description=f"The key in {KEY_VARIABLE}, where the server was given one.")


@api.exception_handler(RequestValidationError)
async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
    """What is wrong with a request, on one line."""
    return JSONResponse({"detail": error_line(error.errors())}, 422)


def digest(key: str) -> str:
    """What a replica is given of the key: Ray stores, and may log, what its processes are started with."""
    return hashlib.sha256(key.encode()).hexdigest()


def check_key(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
    """Refuse a request without the server's key, if it has one; compared in constant time."""
    expected = os.environ.get(_DIGEST_VARIABLE, "")
    token = given.credentials if given else ""
    if expected and not hmac.compare_digest(digest(token), expected):
        raise HTTPException(
            401, "missing or wrong API key; send Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"}
        )


@serve.deployment(max_ongoing_requests=200, health_check_period_s=10)
@serve.ingress(api)
class Endpoint:
    """One replica: a classifier behind the HTTP routes. It counts as ready once it has classified a text."""

    def __init__(self, artifact: str, model: str, precision: Precision, threads: int, key_digest: str) -> None:
        os.environ[_DIGEST_VARIABLE] = key_digest
        torch.set_num_threads(threads)
        self.classifier = Classifier.load(artifact, precision=precision)
        self.model = model
        self.classifier.logits([_FIRST[self.classifier.info.reads.form]])

    @api.post("/v1/classify", response_model_exclude_none=True, dependencies=[Depends(check_key)])
    async def classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """Classify texts: the most probable label, the labels that hold, and a probability for each label."""
        try:
            ids = await asyncio.to_thread(self.classifier.encode, plain_inputs(request))
        except DataError as error:  # a form that this classifier does not read, or refused by its chat template
            raise HTTPException(422, f"inputs: {error}") from None
        logits = np.stack(await asyncio.gather(*(self._forward(row) for row in ids)))
        return respond(self.classifier, self.model, request, logits, [len(row) for row in ids])

    @serve.batch(max_batch_size=_MOST_TEXTS, batch_wait_timeout_s=_WAIT_S)  # type: ignore[untyped-decorator]
    async def _forward(self, ids: list[Ids]) -> list[Floats]:
        """Texts of all requests that wait, in one go; a thread computes, so that health checks are answered."""
        return list(await asyncio.to_thread(self.classifier.forward, ids))

    @api.get("/v1/model", dependencies=[Depends(check_key)])
    async def about(self) -> dict[str, Any]:
        """What is served: labels, problem type, thresholds, backbone, and the metrics it was measured with."""
        info = self.classifier.info
        metrics = {part: {k: v for k, v in m.items() if isinstance(v, float | int)} for part, m in info.metrics.items()}
        return {
            "model": self.model,
            **info.label_space,
            "thresholds": info.thresholds,
            "input": info.reads.form,
            "max_length": info.max_length,
            "backbone": info.backbone.id,
            "metrics": metrics,
        }

    @api.get("/health")
    async def health(self) -> dict[str, str]:
        """Answers when the replica is ready to classify."""
        return {"status": "ok"}


def application(
    artifact: Path, model: str, *, precision: Precision = "auto", threads: int = 1, gpu: bool = False
) -> serve.Application:
    """The application that ``serve.run`` and ``serve deploy`` take."""
    options = {"num_gpus": 1} if gpu else {"num_cpus": 1}
    key = os.environ.get(KEY_VARIABLE, "")
    endpoint = Endpoint.options(ray_actor_options=options)  # type: ignore[attr-defined]
    return endpoint.bind(str(artifact), model, precision, threads, digest(key) if key else "")
