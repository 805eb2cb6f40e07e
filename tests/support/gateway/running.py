"""A gateway that really runs: uvicorn on a socket, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from organism_flows.blocks.settings import Settings
from organism_flows.serve_apps.gateway.__main__ import bound, server_config
from organism_flows.serve_apps.gateway.app import create_app
from organism_flows.serve_apps.gateway.dependencies import AppState
from organism_flows.serve_apps.gateway.organism_link import OrganismLink
from tests.support.gateway.described import Description
from tests.support.stack import until


class Gateway:
    """One that runs, and a client for it."""

    def __init__(
        self, url: str, parts: AppState, http: httpx.AsyncClient, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.url = url
        self.parts = parts
        self.http = http
        self._loop = loop

    def on_its_loop(self, do: Callable[[], Any]) -> None:
        """Have the gateway's event loop, which is that of another thread, do something."""
        self._loop.call_soon_threadsafe(do)

    async def submit(self, *tasks: dict[str, Any]) -> list[str]:
        """Ids of new tasks; without any, of one."""
        answer = await self.http.post("/api/tasks", json=list(tasks) or {"type": "t"})
        assert answer.status_code == 201, answer.text
        return [task["id"] for task in answer.json()["tasks"]]


@asynccontextmanager
async def running(
    dsn: str, *, organism: OrganismLink | None = None, token: str | None = None, **settings: Any
) -> AsyncIterator[Gateway]:
    """A gateway on the database ``dsn``, open without tokens; ``token`` is what its client sends."""
    settings.setdefault("gateway_open", not {"token", "gateway_tokens"} & settings.keys())
    chosen = Settings(dsn=dsn, **settings)
    app = create_app(chosen, organism=organism)
    listener = bound("127.0.0.1", 0)
    server = uvicorn.Server(server_config(app, chosen))
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="gateway", daemon=True)
    thread.start()
    await until(lambda: server.started or not thread.is_alive())
    assert thread.is_alive()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        hooks = {"response": [Description(app).check]}
        async with httpx.AsyncClient(
            base_url=url, timeout=60, headers=headers, trust_env=False, event_hooks=hooks
        ) as http:
            yield Gateway(url, app.state.parts, http, loops[0])
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join, 20)
        listener.close()


def token_file(folder: Path, **tokens: str) -> Path:
    """A file of tokens by scope."""
    path = folder / "tokens"
    lines = [f"{scope}:{hashlib.sha256(token.encode()).hexdigest()}" for scope, token in tokens.items()]
    path.write_text("# who may do what\n\n" + "\n".join(lines) + "  # made for the tests\n")
    return path
