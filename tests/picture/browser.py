"""Drives a headless Chromium by the WebDriver protocol: chromedriver answers plain HTTP, nothing more is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = "chromium and chromedriver are not installed" if CHROMIUM is None or DRIVER is None else ""


class Browser:
    """One window."""

    def __init__(self, address: str, session: str) -> None:
        self._root = f"{address}/session/{session}"

    def _ask(self, path: str, data: Any = None) -> Any:
        return _request(self._root + path, data)

    def open(self, page: Path) -> None:
        self._ask("/url", {"url": page.as_uri()})
        self.wait("return window.maskcPage !== undefined && maskcPage.stats.drawn > 0")

    def run(self, script: str, *args: Any) -> Any:
        """The value that a script returns."""
        return self._ask("/execute/sync", {"script": script, "args": list(args)})

    def wait(self, script: str, seconds: float = 20) -> None:
        """Until a script returns true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"still not: {script}"
            time.sleep(0.03)

    def settled(self) -> None:
        """Until everything on screen is evaluated and drawn."""
        self.wait("return maskcPage.stats.pending === 0")
        self.run("return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def keys(self, *keys: str) -> None:
        """Press keys one after another."""
        actions = [{"type": kind, "value": k} for k in keys for kind in ("keyDown", "keyUp")]
        self._ask("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window."""
        move = {"type": "pointerMove", "duration": 0, "x": int(x), "y": int(y), "origin": "viewport"}
        self._ask("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def screenshot(self) -> bytes:
        """The window as a PNG."""
        request = urllib.request.urlopen(self._root + "/screenshot", timeout=60)
        return base64.b64decode(json.loads(request.read())["value"])


def _request(url: str, data: Any) -> Any:
    body = json.dumps({} if data is None else data).encode()
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    try:
        return json.loads(urllib.request.urlopen(request, timeout=60).read())["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None


@contextlib.contextmanager
def chromium(width: int = 1100, height: int = 760) -> Iterator[Browser]:
    """A browser of its own, closed at the end."""
    assert CHROMIUM is not None
    assert DRIVER is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _started(address)
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--force-device-scale-factor=1",
        ]
        options = {"binary": CHROMIUM, "args": [*flags, f"--window-size={width},{height}"]}
        logs = {"browser": "ALL"}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": logs}
        made = _request(address + "/session", {"capabilities": {"alwaysMatch": wanted}})
        try:
            yield Browser(address, made["sessionId"])
        finally:
            end = urllib.request.Request(f"{address}/session/{made['sessionId']}", method="DELETE")
            urllib.request.urlopen(end, timeout=60).read()
    finally:
        driver.terminate()
        driver.wait(timeout=20)


def _started(address: str) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address + "/status", timeout=5).read()
            return
        time.sleep(0.05)
    raise AssertionError("chromedriver does not start")
