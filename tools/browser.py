"""Chromium without a window, driven over its DevTools protocol: real keys, colours and sizes of the screen."""

import json
import os
import shutil
import subprocess
from base64 import b64decode
from contextlib import contextmanager

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_KEYS = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}
_TEXTS = {"Enter": "\r", "Space": " "}


class Browser:
    """One page of Chromium. Commands and answers are JSON documents that end in a zero byte, on two pipes."""

    def __init__(self, commands, answers):
        self._commands, self._answers, self._number, self._session = commands, answers, 0, None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def __call__(self, method, **parameters):
        """Send a command of the protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def _read(self):
        text = bytearray()
        while (byte := self._answers.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            text += byte
        return json.loads(text)

    def open(self, path, *, width=1200, height=800, is_dark=False):
        """Open a file, and wait until its script has run."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self("Page.enable")
        self("Page.navigate", url=path.as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def evaluate(self, script):
        """Return the value of an expression of JavaScript, or that of its promise."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key, times=1):
        """Press a key as the keyboard does."""
        code = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": _KEYS[key]}
        text = {"text": _TEXTS[key]} if key in _TEXTS else {}
        for _ in range(times):
            self("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **code, **text)
            self("Input.dispatchKeyEvent", type="keyUp", **code)

    def tab_to(self, condition):
        """Press Tab until an expression of JavaScript about `element`, which has the focus, is true."""
        for _ in range(300):
            self.press("Tab")
            if self.evaluate(f"((element) => {condition})(document.activeElement)"):
                return
        raise AssertionError(f"Tab does not reach {condition}")

    def screenshot(self, path):
        """Write what the screen shows as a PNG file."""
        path.write_bytes(b64decode(self("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def open_browser(profile):
    """Start Chromium with its files in the folder `profile`; it ends with this block."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    command_end, commands = os.pipe()
    answers, answer_end = os.pipe()
    # The protocol is on the descriptors 3 and 4, which only a shell can set without a function between fork and exec.
    shell = f'exec "$0" "$@" 3<&{command_end} 4>&{answer_end}'
    process = subprocess.Popen(
        ["/bin/bash", "-c", shell, CHROMIUM, *options, f"--user-data-dir={profile}"],
        pass_fds=(command_end, answer_end),
        stderr=subprocess.DEVNULL,
    )
    os.close(command_end)
    os.close(answer_end)
    try:
        with os.fdopen(commands, "wb") as writer, os.fdopen(answers, "rb") as reader:
            yield Browser(writer, reader)
    finally:
        process.terminate()
        process.wait(30)
