"""The testing page loads nothing from elsewhere and nothing in it is let through that its policy does not know."""

from __future__ import annotations

import base64
import hashlib
import re

from rayclf.serving.page import PAGE, POLICY


def test_the_policy_knows_the_blocks_of_the_page() -> None:
    blocks = re.findall(r"<(?:script|style)[^>]*>(.*?)</", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'" in POLICY
    assert "unsafe" not in POLICY
    assert POLICY.startswith("default-src 'none'")


def test_nothing_that_the_policy_would_stop() -> None:
    assert not re.search(r"\bsrc=|https?:|@import|url\(|\son\w+=|\sstyle=|innerHTML|javascript:", PAGE)


def test_every_element_that_the_script_speaks_of_is_there() -> None:
    asked = set(re.findall(r'at\("(\w+)"\)', PAGE))
    assert asked <= set(re.findall(r'\bid="(\w+)"', PAGE))
    labels = set(re.findall(r'<label for="(\w+)"', PAGE))
    assert labels == set(re.findall(r'<(?:select|textarea|input)[^>]*\bid="(\w+)"', PAGE))
