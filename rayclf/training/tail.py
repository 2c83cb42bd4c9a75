"""New whole lines of a file that another process, perhaps on another machine, appends to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Tail:
    """Reads a file of JSON lines bit by bit; a line that is still being written waits until it is whole."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._read = 0

    def read(self) -> list[dict[str, Any]]:
        """The lines since the last call; a file that was begun anew is read from its beginning, none is no lines."""
        try:
            with self.file.open("rb") as file:
                if file.seek(0, 2) < self._read:
                    self._read = 0
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            self._read = 0
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        return [json.loads(line) for line in whole.splitlines()]
