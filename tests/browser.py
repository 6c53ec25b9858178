"""A headless Chromium to test pages with: no package beside the standard library.

It is driven by the DevTools protocol through ``--remote-debugging-pipe``: the browser reads JSON messages,
each ended by a zero byte, from file descriptor 3, and answers on 4.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
         "--disable-extensions", "--disable-sync", "--mute-audio", "--remote-debugging-pipe")  # fmt: skip
KEYS = {" ": ("Space", 32), "Home": ("Home", 36), "End": ("End", 35), "ArrowLeft": ("ArrowLeft", 37),
        "ArrowUp": ("ArrowUp", 38), "ArrowRight": ("ArrowRight", 39), "ArrowDown": ("ArrowDown", 40),
        "Tab": ("Tab", 9), "Enter": ("Enter", 13)}  # fmt: skip
LAUNCH = """import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])"""
PATIENCE = 30.0
"""Seconds after which something has gone wrong."""


def chromium() -> str | None:
    """Path of the browser: NOWCAST_CHROMIUM, or one on the path; None if there is none."""
    named = os.environ.get("NOWCAST_CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A running browser; a context manager that ends it.

    Args:
        binary: Its path.
        profile: Empty folder for what it keeps.
    """

    def __init__(self, binary: str, profile: Path) -> None:
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        # Above 9, so that neither is 3 or 4 while they are moved there.
        passed = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, to_write)]
        self._process = subprocess.Popen(
            [sys.executable, "-ISc", LAUNCH, *map(str, passed), binary, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=passed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (to_read, to_write, *passed):
            os.close(end)
        self._rest, self._number = b"", 0
        self._pages: dict[str, Page] = {}

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def page(self, width: int, height: int, *, pixels: float = 1, calm: bool = True) -> Page:
        """An empty page of some size in CSS pixels.

        Args:
            width: Of the window.
            height: Of the window.
            pixels: Of the screen to one of CSS.
            calm: Whether the reader prefers less motion.
        """
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setTimezoneOverride", timezoneId="Europe/Amsterdam")
        motion = {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"}
        page.send("Emulation.setEmulatedMedia", features=[motion])
        page.resize(width, height, pixels=pixels)
        return page

    def send(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        """One command and its result; what else comes meanwhile goes to its page."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if answer.get("sessionId") in self._pages:
                self._pages[answer["sessionId"]].hear(answer["method"], answer["params"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            assert select.select([self._in], [], [], PATIENCE)[0], "the browser does not answer"
            more = os.read(self._in, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


class Page:
    """One page.

    Attributes:
        errors: What its console said was wrong, and exceptions that nobody caught.
    """

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self.errors: list[str] = []
        self._browser, self._session, self._target = browser, session, target

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the DevTools protocol."""
        return self._browser.send(method, params, self._session)

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """Take note of an event."""
        if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} ({params['entry'].get('url', '')})")
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(params["args"]))

    def resize(self, width: int, height: int, *, pixels: float = 1) -> None:
        """Give the window another size; below 600 pixels it is a phone's."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=pixels,
                  mobile=width < 600)  # fmt: skip

    def open(self, url: str) -> None:
        """Go to an address."""
        failed = self.send("Page.navigate", url=url).get("errorText")
        assert not failed, f"{url}: {failed}"
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, script: str) -> Any:
        """Value of an expression; of a promise, what it comes to."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, f"{script}: {result['exceptionDetails']}"
        return result["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}; {self.errors}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """Text that an element shows."""
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText.trim()")

    def click(self, selector: str) -> None:
        """Click in the middle of an element, which is scrolled into view."""
        place = self.evaluate(
            f"""(() => {{ const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "nearest"}}); const box = element.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1
            )

    def press(self, key: str) -> None:
        """Press and let go one of `KEYS`."""
        code, number = KEYS[key]
        told = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        text = {"text": key} if key == " " else {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **told, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **told)

    def screenshot(self, path: Path) -> None:
        """A PNG of what the window shows."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Close it."""
        self._browser.send("Target.closeTarget", {"targetId": self._target})
