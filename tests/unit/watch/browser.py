"""Chromium over its DevTools protocol: pages are looked at while they live."""

import json
import shutil
import subprocess
import time
from contextlib import contextmanager

import httpx
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-port=0", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]  # fmt: skip
PATIENCE = 20
"""Seconds in which anything must have come to be."""


class Tab:
    """A page in the browser: what it asked for, what it complained of, and what is in it."""

    def __init__(self, socket):
        self.socket, self.number = socket, 0
        self.asked, self.complaints = [], []

    def call(self, method, **parameters):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE))
            self._note(message)
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    def _note(self, message):
        about = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.asked.append(about["request"]["url"])
        if message.get("method") == "Log.entryAdded":
            self.complaints.append(about["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"]["text"])

    def open(self, url, width=1200, script=True):
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression):
        """Of a JavaScript expression; asked from outside, so that it is there without the page's scripts, too."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression):
        end = time.monotonic() + PATIENCE
        while not self.value(expression):
            assert time.monotonic() < end, f"never came to hold: {expression}"
            time.sleep(0.05)

    def text(self):
        return " ".join(self.value("document.body.innerText").split())


@contextmanager
def browser(folder):
    """The port of a browser of its own."""
    profile = folder / "profile"
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield _port(profile / "DevToolsActivePort")
    finally:
        process.terminate()
        process.wait(PATIENCE)


@contextmanager
def new_tab(port):
    """An empty tab of a browser."""
    made = httpx.put(f"http://127.0.0.1:{port}/json/new?about:blank", timeout=PATIENCE).json()
    with connect(made["webSocketDebuggerUrl"], max_size=None) as socket:
        yield Tab(socket)
        httpx.get(f"http://127.0.0.1:{port}/json/close/{made['id']}", timeout=PATIENCE)


def _port(file):
    end = time.monotonic() + PATIENCE
    while not file.exists() or "\n" not in file.read_text():
        assert time.monotonic() < end, "the browser never said where it listens"
        time.sleep(0.05)
    return int(file.read_text().splitlines()[0])
