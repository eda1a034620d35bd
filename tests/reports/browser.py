"""A real browser without a window, spoken to over two pipes in the language of its developer tools.

Source: Chrome DevTools Protocol 1.3 and ``--remote-debugging-pipe``: JSON messages that end with a NUL.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import selectors
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_TIMEOUT_S = 60.0


def find() -> str:
    """Give the path of a browser; skip the test where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no browser on PATH: {', '.join(NAMES)}; on Debian: apt-get install chromium-headless-shell")


class Browser:
    """One page of one browser, with a profile of its own. Ends with the ``with`` block."""

    def __init__(self, folder: Path) -> None:
        to_read, self._requests = os.pipe()
        self._answers, to_write = os.pipe()
        argv = [find(), "--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}"]
        argv += ["--remote-debugging-pipe", *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank"]
        # The browser reads from 3 and writes to 4.
        shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "browser", *argv]
        self._process = subprocess.Popen(
            shell, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        os.set_blocking(self._answers, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._answers, selectors.EVENT_READ)
        self._buffer = b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        #: What has happened on the page, oldest first.
        self.events: list[dict[str, Any]] = []
        (target,) = (each for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._requests)  # it ends when nobody speaks to it any more
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._selector.close()
        os.close(self._answers)

    def call(self, method: str, **parameters: Any) -> Any:
        """Ask for something and give the answer."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(method)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, fragment: str = "") -> None:
        """Show a file, and wait until it is loaded."""
        # By way of another page: the same one with another fragment would not be loaded again.
        for url in ("about:blank", path.as_uri() + (f"#{fragment}" if fragment else "")):
            self.events.clear()
            self.call("Page.navigate", url=url)
            while not any(event["method"] == "Page.loadEventFired" for event in self.events):
                self.events.append(self._next("Page.loadEventFired"))

    def run(self, expression: str) -> Any:
        """Give the value of an expression on the page, of a promise what it promises."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write what is seen to a PNG file."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[str]:
        """Give what the page's console and its scripts complained about."""
        return [
            json.dumps(event["params"])
            for event in self.events
            if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")
        ]

    def requested(self) -> set[str]:
        """Give the addresses that the page asked for."""
        asked = (event for event in self.events if event["method"] == "Network.requestWillBeSent")
        return {event["params"]["request"]["url"].partition("#")[0] for event in asked}

    def _next(self, what: str) -> dict[str, Any]:
        deadline = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._buffer:
            assert self._selector.select(deadline - time.monotonic()), f"the browser does not answer: {what}"
            data = os.read(self._answers, 1 << 20)
            assert data, f"the browser has ended: {what}"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer
