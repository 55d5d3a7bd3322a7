"""A headless Chromium, driven over its DevTools protocol on a pair of pipes.

Two file descriptors and JSON: no driver, no WebSocket library, no port that anybody else could use.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_PATIENCE_S = 40.0  # for what is expected at once, on a machine that may be busy


def find_chromium() -> str | None:
    """The browser's path, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


# A module is evaluated once: these are the page's own, and show what they are at any moment.
_NAME_EXPORTS = """(async () => {
  for (const link of document.querySelectorAll("link[rel=modulepreload]")) {
    const module = await import(link.href);
    for (const name of Object.keys(module)) {
      Object.defineProperty(globalThis, name, { get: () => module[name], configurable: true });
    }
  }
})()"""


class Browser:
    """One browser with one page; a context manager that ends it."""

    def __init__(self, binary: str, width: int = 1500, height: int = 1300) -> None:
        self._profile = tempfile.mkdtemp(prefix="fastipam-chromium-")
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # It reads commands from its descriptor 3 and writes answers to its descriptor 4; first out
        # of their way with the ends that go there.
        ends = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 10) for one in (to_browser, from_browser)]
        options = [
            "--headless=new",
            "--no-sandbox",
            "--remote-debugging-pipe",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--force-device-scale-factor=1",
        ]
        place = [f"--user-data-dir={self._profile}", f"--window-size={width},{height}"]
        self._pid = os.posix_spawn(
            binary,
            [binary, *options, *place, "about:blank"],
            {"PATH": os.environ["PATH"], "HOME": self._profile, "LANG": "C.UTF-8"},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_DUP2, ends[0], 3),
                (os.POSIX_SPAWN_DUP2, ends[1], 4),
            ],
        )
        for descriptor in (to_browser, from_browser, *ends):
            os.close(descriptor)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []
        self._session = ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError, AssertionError):
            self._session = ""
            self.send("Browser.close")
        for descriptor in (self._in, self._out):
            os.close(descriptor)
        end = time.monotonic() + 10
        while os.waitpid(self._pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(0.02)
        shutil.rmtree(self._profile, ignore_errors=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + _PATIENCE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def resize(self, width: int, height: int) -> None:
        """Make the page this large, one device pixel a CSS pixel."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def prefer(self, scheme: str) -> None:
        """Have the reader prefer a scheme of colours: "light" or "dark"."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded. What its modules export can be named then."""
        self.events.clear()
        self.send("Page.navigate", url=url)
        self.until(lambda: self.run("document.readyState") == "complete", "the page is loaded")
        self.run(_NAME_EXPORTS)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        done = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, true: Callable[[], object], what: str) -> None:
        """Wait until it is the case."""
        end = time.monotonic() + _PATIENCE_S
        while not true():
            assert time.monotonic() < end, f"not within {_PATIENCE_S:g} s: {what}"
            time.sleep(0.02)

    def until_js(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        self.until(lambda: self.run(f"Boolean({expression})"), expression)

    def click(self, selector: str) -> None:
        """Click in the middle of an element, as a mouse does."""
        x, y = self.run(
            f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """A mouse event at a point of the window."""
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def key(self, key: str) -> None:
        """Press a key."""
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key that types nothing, such as an arrow."""
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 * shift)

    def screenshot(self, path: Path | None = None, *, selector: str = "") -> bytes:
        """A PNG of the window, or of one element."""
        more: dict[str, Any] = {}
        if selector:
            box = self.run(
                f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
                "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}})()"
            )
            more = {"clip": {**box, "scale": 1}}
        png = base64.b64decode(self.send("Page.captureScreenshot", format="png", **more)["data"])
        if path is not None:
            path.write_bytes(png)
        return png

    def complaints(self) -> list[str]:
        """What the page has logged as an error, thrown, or been refused."""
        self.run("0")  # what was on its way is here then
        found = []
        for event in self.events:
            method, about = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                found.append(str(about["exceptionDetails"]))
            elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
            elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning"):
                found.append(str(about["args"]))
        return found

    def requests(self) -> list[str]:
        """The addresses of all requests since the page was opened."""
        self.run("0")
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]
