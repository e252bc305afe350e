"""A headless Chromium over its own protocol: sizes below its least window, colour schemes, real fetches."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One page of it."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._id = socket, 0
        self.errors: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command; what the page complains of meanwhile is kept."""
        self._id += 1
        await self._socket.send_json({"id": self._id, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=60)
            if message.get("id") == self._id:
                assert "error" not in message, message
                return dict(message["result"])
            if message.get("method") == "Log.entryAdded":
                self.errors.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))

    async def show(self, url: str, width: int, scheme: str) -> None:
        """Load a page at a width, in a colour scheme."""
        await self.call("Log.enable")
        await self.call("Runtime.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.call("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        await self.call("Emulation.setEmulatedMedia", features=[feature])
        await self.call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """Of an expression, awaited where it is a promise."""
        got = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        return got["result"].get("value")

    async def until(self, expression: str, seconds: float = 30.0) -> bool:
        """Whether it becomes true in time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if await self.value(expression):
                return True
            await asyncio.sleep(0.05)
        return False

    async def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        got = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(got["data"]))


@contextlib.asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Browser]:
    """A browser whose profile lies in the folder."""
    assert PROGRAM is not None
    command = [PROGRAM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--remote-debugging-port=0"]
    command += [f"--user-data-dir={folder}/profile", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = folder / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + 60
        while not (address.is_file() and address.read_text().count("\n")) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        port = int(address.read_text().split()[0])
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as response:
                pages = [target for target in await response.json() if target["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Browser(socket)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
