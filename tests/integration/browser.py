"""A real browser without a window, driven by the Chrome DevTools Protocol over a pipe.

https://chromedevtools.github.io/devtools-protocol/: messages are JSON, ended by a zero byte, on the file descriptors 3
(to the browser) and 4 (from it).
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_KEYS = {"Tab": 9, "Enter": 13}
_WAIT_S = 60
# The browser looks for its pipes on these two.
_ON_3_AND_4 = """
import os, sys
pipes = [os.dup(int(number)) for number in sys.argv[1:3]]
for number, pipe in zip((3, 4), pipes):
    os.dup2(pipe, number)
    os.set_inheritable(number, True)  # a copy onto itself leaves it as it was
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_browser() -> str | None:
    """The first of the browsers that is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a headless browser; ``problems`` has what its console calls errors, such as breaches of a policy."""

    def __init__(self, program: str, profile: Path, *, dark: bool = False, width: int = 900, height: int = 900) -> None:
        self.problems: list[str] = []
        self._ids, self._buffer = itertools.count(1), b""
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        command = [
            *(sys.executable, "-c", _ON_3_AND_4, str(theirs_in), str(theirs_out)),
            *(program, "--headless", "--no-sandbox"),
            *("--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio"),
            *(f"--user-data-dir={profile}", f"--window-size={width},{height}"),
        ]
        self._process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def call(self, method: str, **params: Any) -> Any:
        """One command to the page; raises RuntimeError for what the browser refuses."""
        return self._call(method, self._session, **params)

    def open(self, url: str) -> None:
        """Go to ``url``."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """What a JavaScript expression is."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    def until(self, script: str) -> Any:
        """The first true value of an expression."""
        end = time.monotonic() + _WAIT_S
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.05)
        raise TimeoutError(f"{script}; the page says: {self.run('document.body.innerText')}")

    def type(self, text: str) -> None:
        """Write into what has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, *, control: bool = False) -> None:
        """Press and let go of a key."""
        text = {"text": "\r"} if key == "Enter" else {}
        told = {"key": key, "code": key, "windowsVirtualKeyCode": _KEYS[key], "modifiers": 2 if control else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **told, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def picture(self, file: Path) -> None:
        """The whole page as a PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call("Browser.close")
            self._process.wait(_WAIT_S)
        except (OSError, RuntimeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def _call(self, method: str, session: str | None = None, **params: Any) -> Any:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._notice(answer)

    def _read(self) -> Any:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], _WAIT_S)
            more = os.read(self._from, 1 << 16) if ready else b""
            if not more:
                raise OSError("the browser has ended" if ready else "the browser does not answer")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def _notice(self, event: Any) -> None:
        told = event.get("params", {})
        if event.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.problems.append(told["entry"]["text"])
        elif event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(told["exceptionDetails"]["text"])
