"""A client that never stops to ask, and the load balancer before the nodes."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import httpx
from ray_hosts import HTTP

import rayclf
from rayclf.client_steps import ClientError

EVERY_S = 0.5  # from one question to the next


class Balancer(httpx.BaseTransport):
    """The load balancer that stands before nodes: goes from one to the next, and leaves one alone for 5 s with which no
    connection came about."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses, self._down = addresses, dict[str, float]()
        self._http = httpx.HTTPTransport(limits=httpx.Limits(max_keepalive_connections=0))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.extensions["timeout"] = {**request.extensions["timeout"], "connect": 2.0}
        self._addresses.append(self._addresses.pop(0))
        last: httpx.TransportError = httpx.ConnectError("no node is up")
        for address in self._addresses:
            if self._down.get(address, 0) > time.monotonic():
                continue
            request.url = request.url.copy_with(host=address)
            try:
                return self._http.handle_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                self._down[address], last = time.monotonic() + 5, error
        raise last


class Asking:
    """:class:`rayclf.Client` as it is, retries and all, asking the endpoint behind a balancer for one text after the
    other; counts the answers, those that are not the first one's, and the errors."""

    def __init__(self, name: str, addresses: list[str], texts: list[str]) -> None:
        self._client = rayclf.Client(f"http://{addresses[0]}:{HTTP}/{name}", transport=Balancer(addresses))
        self._texts = texts
        self._right: dict[str, Mapping[str, float]] = {}
        self.answered = self.wrong = 0
        self.errors, self.slowest = list[str](), 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Asking:
        for text in self._texts:
            self._right[text] = self._client.classify([text])[0].probabilities
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._client.close()

    def _work(self) -> None:
        number = 0
        while not self._ended.wait(EVERY_S):
            text, began = self._texts[number % len(self._texts)], time.monotonic()
            number += 1
            try:
                found = self._client.classify([text])[0].probabilities
                self.answered += 1
                self.wrong += max(abs(found[name] - value) for name, value in self._right[text].items()) > 1e-4
            except ClientError as error:
                self.errors.append(str(error))
            self.slowest = max(self.slowest, time.monotonic() - began)
