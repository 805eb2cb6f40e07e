"""Health of the stack's components. Each is called, because a live process may still not work."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from organism_flows.blocks.finding import Finding, failed, ok
from organism_flows.blocks.http_clients import own_client
from organism_flows.blocks.local_stack.stack_state import StackState, read_secret
from organism_flows.blocks.long_work import LongWork, can_write_sql, long_work_sql

if TYPE_CHECKING:
    import httpx

WORK_POOL = "organism"
"""The work pool of our deployments, the same as in deployments/prefect.yaml."""
CHECK_TIMEOUT = 5.0
"""Longest time of one check, in seconds."""


def local_client() -> httpx.AsyncClient:
    """Return an HTTP client for loopback. It ignores the proxies of the environment."""
    return own_client(timeout=CHECK_TIMEOUT)


async def check_postgres(dsn: str) -> Finding:
    """Check that Postgres at ``dsn`` can add a task. The task is taken back.

    A server that answers may be read only, or its disk full.
    """
    # Not through `blocks.queue`, whose import takes longer than all checks together.
    import asyncpg

    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            connection = await asyncpg.connect(dsn)
            try:
                await connection.execute(can_write_sql())
            finally:
                with contextlib.suppress(Exception):
                    await connection.close(timeout=1)
    except Exception as error:
        return failed("postgres", _reason(error))
    return ok("postgres")


async def long_work(dsn: str) -> LongWork | None:
    """Return facts about the work that lanes hold, or `None` if the database does not answer."""
    import asyncpg

    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            connection = await asyncpg.connect(dsn)
            try:
                text, arguments = long_work_sql()
                row = await connection.fetchrow(text, *arguments)
            finally:
                with contextlib.suppress(Exception):
                    await connection.close(timeout=1)
    except Exception:
        # Other checks report that Postgres is away or not migrated.
        return None
    return None if row is None else LongWork.of(dict(row))


async def check_ray(client: httpx.AsyncClient, stack: StackState) -> Finding:
    """Check the Ray head's control store, and that its dashboard lists the Serve applications."""
    headers = bearer(stack.ray_token_path)
    url = stack.ray_dashboard_url
    answers = await asyncio.gather(
        _get("ray", client, f"{url}/api/gcs_healthz", headers),
        _get("ray", client, f"{url}/api/serve/applications/", headers),
    )
    return next((answer for answer in answers if not answer.ok), ok("ray"))


async def check_prefect(client: httpx.AsyncClient, stack: StackState) -> Finding:
    """Check that the Prefect server answers and accepts the stack's secret.

    Its database is not checked: Postgres has a check of its own, and is no reason to restart the server.
    """
    headers = basic(stack.prefect_secret_path)
    return await _get("prefect", client, f"{stack.prefect_api_url}/version", headers)


async def check_worker(
    client: httpx.AsyncClient, stack: StackState, *, since: datetime | None = None
) -> Finding:
    """Check that the stack's worker reports to the Prefect server.

    Args:
        client: HTTP client.
        stack: State of the stack.
        since: When the worker was started; `None`: long ago. Another of its name may have reported before.
    """
    url = f"{stack.prefect_api_url}/work_pools/{WORK_POOL}/workers/filter"
    try:
        response = await client.post(url, json={}, headers=basic(stack.prefect_secret_path))
        if response.status_code != 200:
            return failed("worker", f"{url} answers {response.status_code}")
        workers = [worker for worker in response.json() if worker["name"] == stack.stack_id]
        if since is not None:
            workers = [w for w in workers if datetime.fromisoformat(w["last_heartbeat_time"]) >= since]
    except Exception as error:
        return failed("worker", f"{url}: {_reason(error)}")
    if any(worker["status"] == "ONLINE" for worker in workers):
        return ok("worker")
    return failed(
        "worker", "the worker has not reported for some time" if workers else "no worker has reported yet"
    )


async def check_gateway(client: httpx.AsyncClient, stack: StackState) -> Finding:
    """Check that the gateway lives. The services that it needs have checks of their own."""
    return await _get("gateway", client, f"{stack.gateway_url}/healthz", {})


async def check_organism(client: httpx.AsyncClient, stack: StackState) -> Finding:
    """Check the organism through its HTTP routes."""
    return await _get("organism", client, f"{stack.organism_url}/health", {}, status_key=True)


def bearer(token_path: Path) -> dict[str, str]:
    """Return the header that opens the Ray dashboard, empty if the token cannot be read."""
    with contextlib.suppress(OSError):
        return {"Authorization": f"Bearer {token_path.read_text().strip()}"}
    return {}


def basic(secret_path: Path | None) -> dict[str, str]:
    """Return the header that opens the Prefect API, empty if the secret cannot be read."""
    secret = read_secret(secret_path)
    return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"} if secret else {}


async def _get(
    name: str, client: httpx.AsyncClient, url: str, headers: dict[str, str], *, status_key: bool = False
) -> Finding:
    try:
        response = await client.get(url, headers=headers)
        if response.status_code != 200:
            words = " ".join(response.text.split())[:200]
            return failed(name, f"{url} answers {response.status_code}: {words}".rstrip(": "))
        if status_key:
            body: Any = response.json()
            state = body.get("status") if isinstance(body, dict) else None
            if state not in ("ok", "healthy"):
                return failed(name, f"{url} has the status {state!r}")
    except Exception as error:
        return failed(name, f"{url}: {_reason(error)}")
    return ok(name)


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()
    return text[0] if text and text[0] else type(error).__name__
