"""Messages are one line each, and hold no secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayclf.errors import RayclfError, one_line

ADDRESS = "s3://KEY:swordfish@bucket/x"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("one\n  two\r\nthree "), "one two three"),
        (ValueError(), "ValueError"),
        (OSError(f"no {ADDRESS}"), "no s3://***@bucket/x"),
        (ValueError("x" * 400), "x" * 300),
    ],
)
def test_what_another_library_says_becomes_one_line(error: Exception, told: str) -> None:
    assert one_line(error) == told


@given(st.integers(0, 400))
def test_a_secret_is_hidden_wherever_the_line_is_cut(before: int) -> None:
    assert "swo" not in one_line(OSError("x" * before + f" {ADDRESS}"))


def test_a_message_of_ours_is_one_line_without_secrets() -> None:
    assert str(RayclfError(f"column 'a\nb' of {ADDRESS}: no")) == "column 'a b' of s3://***@bucket/x: no"
