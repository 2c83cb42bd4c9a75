"""Requests as nobody should send them: valid bodies of every protocol, broken in one or more places."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

VALID: dict[str, list[Any]] = {
    "/v1/classify": [
        {"inputs": ["Which organelle makes ATP?"], "top_k": 2, "threshold": 0.5, "output": "logits", "model": "m"},
        {"inputs": ["energy", "law"]},
    ],
    "/v1/classification": [{"input": ["the court"], "data_format": "logits", "model": "m"}, {"input": "rates"}],
    "/classify": [
        {"input": ["money"], "use_activation": False, "truncate_prompt_tokens": 64, "truncation_side": "right"},
        {"messages": [{"role": "user", "content": "interest"}], "add_special_tokens": True},
    ],
    "/predict": [
        {"inputs": [["a text"], ["one"]], "raw_scores": True, "truncate": False},
        {"inputs": "a text", "truncation_direction": "Left", "model": "m"},
    ],
    "/v2/models/m/infer": [
        {
            "id": "7",
            "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["one", "two"]}],
            "outputs": [{"name": "label"}],
        }
    ],
}
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 0.0, -0.0, 1e-320, 1e308, 0.1,
    "", " ", "\x00", "\n", "\u200b", "\ufeff", "é" * 300, "🏳️‍🌈", "a" * 5000, "\u202e", "null", "-1",
    "NaN", "../..", "{text}", [], {}, [[]], [{}], {"": None}, [None], [""], ["a", "b", "c"], [["a", "b"], "c"],
    {"role": "user"},
    [{"role": "user", "content": None}], {"__class__": "x"}, ["a"] * 2000,
]  # fmt: skip
BYTES = [b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\ud800", b"\\u0000",
         b"1e999", b"NaN", b"-Infinity", b"[" * 200, b"9" * 5000, b"\xef\xbb\xbf", b"\\"]  # fmt: skip


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in ``value`` with every key or index in it."""
    keys: Any = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys):
        yield value, key
        yield from places(value[key])


def mutate(chance: random.Random) -> tuple[str, bytes]:
    """A route, and a valid body of it (or now and then of another) that was broken one to four times."""
    route = chance.choice(list(VALID))
    body = copy.deepcopy(chance.choice(VALID[route if chance.random() < 0.95 else chance.choice(list(VALID))]))
    for _ in range(chance.randint(0, 3)):
        body = _broken(body, chance)
    content = json.dumps(body, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    for _ in range(chance.choice((0, 0, 1, 3))):
        content = _damaged(content, chance)
    return route, content


def _broken(body: Any, chance: random.Random) -> Any:
    """Another value, one more, one less, or one elsewhere, anywhere in a body."""
    found = list(places(body))
    if not found:
        return copy.deepcopy(chance.choice(ODD))
    holder, key = chance.choice(found)
    kind = chance.randrange(5)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        holder[key] = [holder[key]]
    elif kind == 2:
        holder[key] = copy.deepcopy(chance.choice(found)[0])
    elif kind == 3 and isinstance(holder, dict):
        holder[chance.choice(("model", "inputs", "x" * 600, "", "top_k", "role", "📦"))] = copy.deepcopy(
            chance.choice(ODD)
        )
    else:
        holder[key] = copy.deepcopy(chance.choice(ODD))
    return body


def _damaged(content: bytes, chance: random.Random) -> bytes:
    """Bytes put in, taken out, overwritten, repeated or cut off."""
    at = chance.randint(0, len(content))
    to = min(len(content), at + chance.choice((1, 2, 8, 64)))
    return chance.choice((
        content[:at] + chance.choice(BYTES) + content[at:],
        content[:at] + content[to:],
        content[:at] + chance.randbytes(to - at) + content[to:],
        content[:to] + content[at:],
        content[:at],
    ))  # fmt: skip
