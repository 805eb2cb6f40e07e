"""A page in headless Chromium, over its DevTools protocol, for pictures and for tests of what people see."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-port=0",
]
UNLIMITED: dict[str, Any] = {"proxy": None, "max_size": None}
START_S = 60.0
POLL_S = 0.1


def find_chromium() -> str | None:
    """Return the path of a Chromium on the PATH, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """The one page of a browser. Made by `open_page`."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer: dict[str, Any] = json.loads(await self._socket.recv())
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    async def run_at_load(self, script: str) -> None:
        """Run ``script`` in each page before its own scripts."""
        await self._send("Page.enable")
        await self._send("Page.addScriptToEvaluateOnNewDocument", source=script)

    async def go(self, url: str) -> None:
        """Open ``url``. What it loads may still be under way."""
        await self._send("Page.navigate", url=url)

    async def evaluate(self, script: str) -> Any:
        """Return what ``script`` evaluates to; None while the page is being replaced."""
        try:
            answer = await self._send("Runtime.evaluate", expression=script, returnByValue=True)
        except RuntimeError:  # "Cannot find default execution context"
            return None
        return answer["result"].get("value")

    async def until(self, script: str, *, timeout: float = 60.0) -> Any:
        """Wait until ``script`` evaluates to something true, and return it.

        Raises:
            TimeoutError: It did not in ``timeout`` seconds. The message has the page's text.
        """
        try:
            async with asyncio.timeout(timeout):
                while not (value := await self.evaluate(script)):  # noqa: ASYNC110  # another process's state
                    await asyncio.sleep(POLL_S)
                return value
        except TimeoutError:
            text = await self.evaluate("location.href + ': ' + document.body.innerText")
            raise TimeoutError(f"{script} is not true on {str(text)[:400]}") from None

    async def type(self, text: str) -> None:
        """Type ``text`` into what has the focus, then Enter."""
        await self._send("Input.insertText", text=text)
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        await self._send("Input.dispatchKeyEvent", type="keyDown", **key)
        await self._send("Input.dispatchKeyEvent", type="keyUp", **key)

    async def resize(self, width: int, height: int) -> None:
        """Make what is to be seen ``width`` by ``height`` pixels large."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self._send("Emulation.setDeviceMetricsOverride", **size)

    async def settled(self, *, quiet_s: float = 2.0, timeout: float = 60.0) -> None:
        """Wait until the page has shown the same for ``quiet_s`` seconds."""
        shown, since = None, 0.0
        async with asyncio.timeout(timeout):
            while not shown or since < quiet_s:
                await asyncio.sleep(POLL_S)
                now = await self.evaluate("document.body.innerHTML")
                since = since + POLL_S if now == shown else 0.0
                shown = now

    async def picture(self, path: Path) -> None:
        """Write what is to be seen to ``path``, as PNG."""
        shot = await self._send("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


@contextlib.asynccontextmanager
async def open_page(chromium: str, *, width: int = 1400, height: int = 900) -> AsyncIterator[Page]:
    """Start a browser with a profile of its own, and give its page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            chromium,
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            "about:blank",
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            origin = await _origin(process, Path(profile) / "DevToolsActivePort")
            async with connect(f"{origin}/devtools/page/{await _page(origin)}", **UNLIMITED) as socket:
                yield Page(socket)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _origin(process: asyncio.subprocess.Process, port_file: Path) -> str:
    async with asyncio.timeout(START_S):
        while not (lines := await asyncio.to_thread(_lines, port_file)):
            if process.returncode is not None:
                raise RuntimeError(f"Chromium ended with {process.returncode}")
            await asyncio.sleep(POLL_S)
    return f"ws://127.0.0.1:{lines[0]}"


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text().splitlines()
    return []


async def _page(origin: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        targets = (await client.get(f"{origin.replace('ws', 'http', 1)}/json/list")).json()
    return next(str(one["id"]) for one in targets if one["type"] == "page")
