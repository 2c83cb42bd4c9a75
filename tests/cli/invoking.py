"""A command of the command line, called in this process."""

from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner


def invoke(app: typer.Typer, *words: str | Path, code: int = 0, answer: str | None = None) -> str:
    """What a command prints, which must exit with ``code``; ``answer`` is typed in. Raises what the command raises."""
    result = CliRunner().invoke(app, [str(word) for word in words], input=answer)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout
