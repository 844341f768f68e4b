"""A small driver for headless Chromium: the DevTools protocol over one WebSocket."""

from __future__ import annotations

import asyncio
import base64
import itertools
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio", "--remote-debugging-port=0",
)  # fmt: skip
PATIENCE_S = 30.0  # for a busy machine; nothing here is a measurement


class Browser:
    """A browser process with a profile of its own. Close it, or use it as a context manager."""

    def __init__(self, program: str, profile: Path):
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port_file = profile / "DevToolsActivePort"
        deadline = time.monotonic() + PATIENCE_S
        while not (port_file.exists() and port_file.read_text("utf-8").count("\n")):
            assert self._process.poll() is None, "the browser did not start"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        port, path = port_file.read_text("utf-8").split("\n")[:2]
        self._loop.run_until_complete(self._connect(f"ws://127.0.0.1:{port}{path}"))

    async def _connect(self, address: str) -> None:
        self._client = aiohttp.ClientSession()
        self._socket = await self._client.ws_connect(address, max_msg_size=0)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Run a command of the protocol and return its result; keeps the events that come meanwhile."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session

        async def talk() -> dict[str, Any]:
            await self._socket.send_json(message)
            while True:
                answer = await self._socket.receive_json(timeout=PATIENCE_S)
                if answer.get("id") == number:
                    return answer
                self.events.append(answer)

        answer = self._loop.run_until_complete(talk())
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def open(self, url: str, size: tuple[int, int] = (1440, 900), *, phone: bool = False) -> Page:
        """A new page in a context of its own, without the cookies of others; `size` is (width, height)."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"], target["targetId"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.resize(size, phone=phone)
        page.go(url)
        return page

    def close(self) -> None:
        async def disconnect() -> None:
            await self._socket.close()
            await self._client.close()

        self.call("Browser.close")
        self._loop.run_until_complete(disconnect())
        self._loop.close()
        self._process.wait(PATIENCE_S)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str):
        self._browser, self._session, self._target = browser, session, target

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def resize(self, size: tuple[int, int], *, phone: bool = False) -> None:
        width, height = size
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)

    def prefer(self, **features: str) -> None:
        """Media features, such as `color_scheme="dark"`."""
        values = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value}
            for name, value in features.items()
        ]
        self.call("Emulation.setEmulatedMedia", features=values)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; waits for a promise."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True,
            userGesture=True,
        )  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str, patience_s: float = PATIENCE_S) -> Any:
        """The first value of an expression that is true in JavaScript's sense."""
        deadline = time.monotonic() + patience_s
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"did not become true: {script}"
            time.sleep(0.05)
        return value

    def point_at(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def picture(self) -> bytes:
        """What is seen, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def events(self, *methods: str) -> list[dict[str, Any]]:
        """The parameters of these events of this page so far."""
        self.run("1")  # what was under way arrives before the answer
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event["method"] in methods
        ]

    def requested(self) -> list[str]:
        """All addresses that the page asked for, WebSockets included."""
        requests = [event["request"]["url"] for event in self.events("Network.requestWillBeSent")]
        return requests + [event["url"] for event in self.events("Network.webSocketCreated")]

    def complaints(self) -> list[str]:
        """Errors and warnings on the console, among them breaches of the content security policy."""
        console = self.events("Runtime.consoleAPICalled")
        thrown = self.events("Runtime.exceptionThrown")
        logged = [event["entry"] for event in self.events("Log.entryAdded")]
        return [
            *(str(event["args"]) for event in console if event["type"] in ("error", "warning")),
            *(str(event["exceptionDetails"]) for event in thrown),
            *(str(entry) for entry in logged if entry["level"] in ("error", "warning")),
        ]

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)
