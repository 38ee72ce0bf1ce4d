"""Drives the system's Chromium over its DevTools protocol: enough to type, press keys, wait and take pictures."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from websockets.sync.client import ClientConnection, connect

KEYS = {"Enter": 13, "Escape": 27, "ArrowRight": 39}
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0")


class Tab:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._ids = socket, itertools.count()
        self.complaints: list[str] = []
        """The page's exceptions and errors, breaches of its security policy among them."""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        identifier = next(self._ids)
        self._socket.send(json.dumps({"id": identifier, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            level = message.get("params", {}).get("entry", {}).get("level")
            if message.get("method") == "Runtime.exceptionThrown" or level == "error":
                self.complaints.append(json.dumps(message["params"])[:500])
            if message.get("id") == identifier:
                assert "error" not in message, message
                return message["result"]

    def js(self, expression: str) -> Any:
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression: str, seconds: float = 20) -> None:
        """Waits for an expression to be true."""
        end = time.monotonic() + seconds
        while not self.js(f"!!({expression})"):
            assert time.monotonic() < end, f"never: {expression}; the page says {self.js('document.body.innerText')[:2000]}"
            time.sleep(0.03)

    def open(self, url: str, width: int = 1280, height: int = 1000, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && document.querySelector('option')")

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def press(self, key: str, control: bool = False) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key], modifiers=2 * control)

    def click(self, selector: str) -> None:
        place = self.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Tab]:
    """A tab of a new browser whose profile is in the folder. Skips the test where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine: the playground is not driven")
    with (folder / "log").open("wb") as log:
        browser = subprocess.Popen([program, *FLAGS, f"--user-data-dir={folder}", "about:blank"], stdout=log, stderr=log)
    try:
        yield from _tab(folder, browser)
    finally:
        browser.terminate()
        browser.wait(timeout=20)


def _tab(folder: Path, browser: subprocess.Popen[bytes]) -> Iterator[Tab]:
    place, end = folder / "DevToolsActivePort", time.monotonic() + 60
    while not (place.exists() and place.read_text().count("\n")):
        assert browser.poll() is None and time.monotonic() < end, (folder / "log").read_text(errors="replace")[-2000:]
        time.sleep(0.05)
    port = place.read_text().split()[0]
    with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
        [page] = [target for target in json.load(answer) if target["type"] == "page"]
    with connect(page["webSocketDebuggerUrl"], max_size=2**26) as socket:
        yield Tab(socket)
