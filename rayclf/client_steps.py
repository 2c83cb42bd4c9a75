"""What a client asks of an endpoint, how it reads the answers and when it tries again, without any input or output.

All of it is generators that yield what to do next, an ``httpx.Request`` to send or seconds to sleep, and are given what
came of it. So the sync and the async client share every decision, and tests need neither a network nor a clock.
"""

from __future__ import annotations

import json
import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx

import rayclf
from rayclf.errors import UserError

Input = str | tuple[str, str] | Sequence[Mapping[str, Any]]  # a text, a pair, chat messages
T = TypeVar("T")
Outcome = httpx.Response | httpx.RequestError | None
Steps = Generator[httpx.Request | float, Outcome, T]

MAX_INPUTS, MAX_BYTES = 1024, 8_000_000  # of one request; an endpoint takes bodies of up to 10 MB
_AGAIN = frozenset({429, 502, 503, 504})  # busy, or a replica or a proxy that went away: to classify twice does no harm
_FIRST_WAIT_S, _LONGEST_WAIT_S, _HEALTH_S = 0.25, 10.0, 10.0


class ClientError(UserError):
    """An endpoint refused, or did not answer in time; or what it was given cannot be sent.

    ``status`` is the last HTTP status, None when none came back; ``code`` the endpoint's word for the error.
    """

    def __init__(self, message: str = "", status: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Classification:
    """What the classifier says of one text: the fields of :class:`rayclf.Prediction`, which would need PyTorch.

    ``probabilities`` are of the ``top_k`` most probable labels, highest first; of all when unset.
    """

    label: str
    score: float
    labels: list[str]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Retry:
    """When to try again: exponential back-off with equal jitter, within a deadline over all attempts.

    The wait after attempt i = 0, 1, … is uniform between a half and the whole of min(10 s, 0.25 s * 2^i), on top of the
    seconds of a ``Retry-After`` (Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015). The half is
    there so that the attempts outlast what is away for a while; with full jitter they may all be made in a moment.
    """

    timeout: float
    retries: int
    clock: Callable[[], float] = time.monotonic
    jitter: Callable[[float, float], float] = random.uniform

    def ask(self, request: httpx.Request) -> Steps[httpx.Response]:
        """The first answer that no other attempt could better; raises ClientError when there is none in time."""
        place, end = f"{request.method} {request.url}", self.clock() + self.timeout
        for attempt in range(self.retries + 1):
            left = max(end - self.clock(), 0.001)
            request.extensions["timeout"] = httpx.Timeout(left).as_dict()
            outcome = yield request
            problem = _problem(place, outcome)
            if isinstance(outcome, httpx.Response) and not _was_lost(outcome, problem):
                return outcome
            if not isinstance(outcome, httpx.Response) and not _may_pass(outcome):
                raise problem
            longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**attempt)
            wait = _retry_after(outcome) + self.jitter(longest / 2, longest)
            if attempt == self.retries or self.clock() + wait >= end:
                break
            yield wait
        told = f"{problem} (attempts: {attempt + 1}, timeout {self.timeout:g} s)"
        raise ClientError(told, problem.status, problem.code)


def _was_lost(response: httpx.Response, problem: ClientError) -> bool:
    """Whether another attempt can better an answer: also a 500 in another's words, which is what Ray Serve's proxy says
    when a replica goes away with the request. The endpoint's own is the same each time."""
    return response.status_code in _AGAIN or (response.status_code == 500 and problem.code is None)


def _may_pass(error: httpx.RequestError | None) -> bool:
    """Whether another attempt can help: not where the request itself or the form of the answer is wrong."""
    ours = httpx.UnsupportedProtocol | httpx.LocalProtocolError
    return isinstance(error, httpx.TransportError) and not isinstance(error, ours)


def _retry_after(outcome: Outcome) -> float:
    """Seconds that the endpoint asks to wait; a date, which only proxies send, is not read."""
    given = outcome.headers.get("retry-after", "") if isinstance(outcome, httpx.Response) else ""
    return float(given) if given.isascii() and given.isdigit() else 0.0


def _problem(place: str, outcome: Outcome) -> ClientError:
    """What went wrong: what the endpoint says, or the status alone where something else answers, or no answer."""
    if not isinstance(outcome, httpx.Response):
        return ClientError(f"{place}: {' '.join(str(outcome).split())[:200] or type(outcome).__name__}")
    code, message = None, outcome.reason_phrase
    try:
        error = outcome.json()["error"]
        code, message = str(error["code"]), str(error["message"])
    except (ValueError, LookupError, TypeError):
        pass
    return ClientError(f"{place}: {outcome.status_code} {message}", outcome.status_code, code)


def limits(concurrency: int) -> httpx.Limits:
    """Connections that are kept, one for each call that may be under way. Nobody waits for one, as that would use up
    the time of a request, and httpx looks through all that wait whenever one ends."""
    if concurrency < 1:
        raise ClientError(f"concurrency {concurrency}: must be at least 1")
    return httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)


class Questions:
    """What can be asked of an endpoint, as steps: the half of both clients that does no input or output."""

    def __init__(self, url: str, api_key: str | None, timeout: float, retries: int) -> None:
        try:
            base = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ClientError(f"url {url}: {error}") from None
        if base.scheme not in ("http", "https") or not base.host:
            raise ClientError(f"url {url}: must be like http://127.0.0.1:8000")
        if api_key is not None and not (api_key and api_key.isascii() and api_key.isprintable()):
            raise ClientError("api_key: is empty, or has characters that no key has, such as a line break")
        if timeout <= 0 or retries < 0:
            raise ClientError(f"timeout {timeout}, retries {retries}: must be above 0 and at least 0")
        self._url = str(base).rstrip("/")
        self._headers = {"user-agent": f"rayclf/{rayclf.__version__}", "content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"
        self.retry = Retry(timeout, retries)

    def _get(self, path: str) -> httpx.Request:
        return httpx.Request("GET", self._url + path, headers=self._headers)

    def classify_steps(
        self, texts: Sequence[Input], model: str | None, top_k: int | None
    ) -> Steps[list[Classification]]:
        """A Classification for each text, over as many requests as the limits ask for."""
        if isinstance(texts, str):
            raise ClientError("texts must be a list, not one string; put it in a list")
        fields = {name: value for name, value in (("model", model), ("top_k", top_k)) if value is not None}
        head = json.dumps(fields | {"inputs": []}).encode()[:-2]
        found, parts = list[Classification](), deque(_parts(texts))
        while parts:
            start, items = parts.popleft()
            content = head + b",".join(items) + b"]}"
            request = httpx.Request("POST", f"{self._url}/v1/classify", headers=self._headers, content=content)
            where = "" if len(items) == len(texts) else f"texts {start + 1} to {start + len(items)} of {len(texts)}: "
            try:
                response = yield from self.retry.ask(request)
                if len(items) > 1 and _is_too_much(response):
                    half = len(items) // 2
                    parts.extendleft([(start + half, items[half:]), (start, items[:half])])
                    continue
                found += _read(response, lambda body: _classifications(body, len(items)))  # noqa: B023  # called at once
            except ClientError as error:
                raise ClientError(f"{where}{error}", error.status, error.code) from None
        return found

    def models_steps(self) -> Steps[list[dict[str, Any]]]:
        """The entries of ``GET /v1/models``."""
        response = yield from self.retry.ask(self._get("/v1/models"))
        return _read(response, lambda body: [dict(entry) for entry in body["data"]])

    def health_steps(self) -> Steps[bool]:
        """Whether ``GET /health`` answers, asked once."""
        once = replace(self.retry, timeout=min(self.retry.timeout, _HEALTH_S), retries=0)
        try:
            response = yield from once.ask(self._get("/health"))
        except ClientError:
            return False
        return response.is_success


def _is_too_much(response: httpx.Response) -> bool:
    """Whether fewer inputs would do: the endpoint's limits are lower than ours, or its answer would be too large."""
    return response.status_code == 413 or (response.is_error and _problem("", response).code == "answer_too_large")


def _parts(texts: Sequence[Input]) -> Iterator[tuple[int, list[bytes]]]:
    """The inputs as JSON in requests under both limits, each with the position of its first input."""
    start, items, size = 0, list[bytes](), 0
    for position, text in enumerate(texts):
        try:
            item = json.dumps(text, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            reason = "not valid Unicode" if isinstance(error, UnicodeEncodeError) else "not a text, a pair or messages"
            raise ClientError(f"texts[{position}]: {reason}") from None
        if items and (len(items) == MAX_INPUTS or size + len(item) > MAX_BYTES):
            yield start, items
            start, items, size = position, [], 0
        items.append(item)
        size += len(item) + 1
    if items:
        yield start, items


def _read(response: httpx.Response, read: Callable[[Any], T]) -> T:
    """What ``read`` makes of a response's JSON; raises ClientError for an error status or another form."""
    place = f"{response.request.method} {response.request.url}"
    if not response.is_success:
        raise _problem(place, response)
    try:
        return read(response.json())
    except (ValueError, LookupError, TypeError):
        raise ClientError(f"{place}: answers, but not as rayclf does; is it the endpoint's address?") from None


def _classifications(body: Any, size: int) -> list[Classification]:
    if len(body["results"]) != size:
        raise ValueError("another number of results")
    return [
        Classification(str(one["label"]), float(one["score"]), list(one["labels"]), dict(one["probabilities"]))
        for one in body["results"]
    ]
