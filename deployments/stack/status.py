"""Status of the stack: which components run, and whether they work now."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from organism_flows.blocks.disk_space import HELP, full_disks
from organism_flows.blocks.errors import StackError
from organism_flows.blocks.finding import Finding, failed
from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.local_stack.stack_state import StackState, read_secret, read_stack, same_server
from organism_flows.blocks.long_work import ask_organism
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack import health
from organism_flows.deployments.stack.local import marks_of
from organism_flows.deployments.stack.state import stack_id_of
from organism_flows.deployments.stack.system import processes

if TYPE_CHECKING:
    import httpx

State = Literal["healthy", "unhealthy", "stopped"]


class ComponentStatus(BaseModel):
    """Status of one component."""

    state: State
    address: str = ""
    pid: int | None = None
    detail: str = ""
    """Why it is not healthy."""
    seconds: float = 0.0
    """Time that its answer took."""


class StackStatus(BaseModel):
    """Status of the stack."""

    home: Path
    stack_id: str
    state: State
    """``healthy`` only if every component is; ``stopped`` if none runs."""
    components: dict[str, ComponentStatus]
    logs: Path
    notes: list[str]
    """Other facts worth knowing, one a line."""
    work: list[str] = []
    """Unusual facts about the running tasks, with numbers. A healthy stack may have some."""

    @property
    def failing(self) -> list[str]:
        """Return the names of the components that are not healthy."""
        return [name for name, component in self.components.items() if component.state != "healthy"]


async def status(settings: Settings) -> StackStatus:
    """Return the status of the stack in ``settings.home``. It takes no lock and changes nothing."""
    home = settings.home.resolve()
    notes: list[str] = []
    stack: StackState | None = None
    try:
        stack = read_stack(home)
    except StackError as error:
        notes.append(f"{error.what}: {error.next_step}")
    marks = marks_of(home)
    members = await asyncio.to_thread(marks.members, stack.processes if stack else None)
    if stack is None:
        if members:
            notes.append(
                f"{len(members)} processes of an earlier start are left: `organism down` removes them"
            )
        stopped = {
            name: ComponentStatus(state="stopped") for name in ("postgres", "ray", "prefect", "organism")
        }
        return StackStatus(
            home=home,
            stack_id=stack_id_of(home),
            state="stopped",
            components=stopped,
            logs=home / "logs",
            notes=notes,
        )
    parts, work = await _ask(stack, settings)
    notes += [f"{line} → {HELP}" for line in full_disks(home)]
    exposed = await asyncio.to_thread(processes.exposed_sockets, members)
    notes += [f"other machines can reach {socket}" for socket in exposed]
    for variable, own in (("PREFECT_API_URL", stack.prefect_api_url), ("RAY_ADDRESS", stack.ray_address)):
        other = os.environ.get(variable)
        if other and other != own:
            notes.append(
                f"{variable} is set to {_without_login(other)}: commands here use that, not this stack"
            )
    secret = os.environ.get("PREFECT_API_AUTH_STRING") or read_secret(stack.prefect_secret_path)
    ours = same_server(os.environ.get("PREFECT_API_URL"), stack.prefect_api_url)
    if ours and secret != read_secret(stack.prefect_secret_path):
        notes.append(
            "PREFECT_API_AUTH_STRING is not this stack's: unset it, or run `organism up`, which takes it over"
        )
    states = {part.state for part in parts.values()}
    overall: State = "unhealthy"
    if states == {"healthy"}:
        overall = "healthy"
    elif not members and "healthy" not in states - ({"healthy"} if not stack.dsn else set()):
        overall = "stopped"
    return StackStatus(
        home=home,
        stack_id=stack.stack_id,
        state=overall,
        components=parts,
        logs=home / "logs",
        notes=notes,
        work=work,
    )


async def _ask(stack: StackState, settings: Settings) -> tuple[dict[str, ComponentStatus], list[str]]:
    if stack.dsn:
        dsn, shown = stack.dsn, stack.dsn
    else:
        dsn = settings.dsn.get_secret_value() if settings.dsn else ""
        shown = "as in ORGANISM_DSN"
    async with health.local_client() as client:
        database = health.check_postgres(dsn) if dsn else _unknown_database()
        asked = {
            "postgres": _one(stack, "postgres", shown, database, external=not stack.dsn),
            "ray": _one(stack, "ray", stack.ray_dashboard_url, health.check_ray(client, stack)),
            "prefect": _one(stack, "prefect", stack.prefect_ui_url, health.check_prefect(client, stack)),
            "organism": _one(stack, "ray", stack.organism_url, health.check_organism(client, stack)),
        }
        if "worker" in stack.processes:
            asked["worker"] = _one(stack, "worker", stack.prefect_ui_url, health.check_worker(client, stack))
        if "gateway" in stack.processes:
            asked["gateway"] = _one(stack, "gateway", stack.gateway_url, health.check_gateway(client, stack))
        answers, work = await asyncio.gather(
            asyncio.gather(*asked.values()), _work(client, stack, settings, dsn)
        )
        return dict(zip(asked, answers, strict=True)), work


async def _work(client: httpx.AsyncClient, stack: StackState, settings: Settings, dsn: str) -> list[str]:
    queue, organism = await asyncio.gather(
        health.long_work(dsn) if dsn else _nothing(),
        ask_organism(stack.organism_url, own_headers(settings), client),
    )
    return [*(queue.notes if queue else []), *(organism.notes if organism else [])]


async def _nothing() -> None:
    return None


async def _one(
    stack: StackState, role: str, address: str, check: Awaitable[Finding], *, external: bool = False
) -> ComponentStatus:
    started = time.monotonic()
    answer = await check
    seconds = round(time.monotonic() - started, 3)
    ref = stack.processes.get(role)
    alive = external or (ref is not None and processes.find(ref) is not None)
    if answer.ok and alive:
        state: State = "healthy"
        detail = ""
    elif alive:
        state, detail = "unhealthy", answer.evidence
    else:
        state = "stopped"
        detail = "its process is gone" + (", though something answers at its address" if answer.ok else "")
    pid = ref.pid if ref and alive and not external else None
    return ComponentStatus(state=state, address=address, pid=pid, detail=detail, seconds=seconds)


async def _unknown_database() -> Finding:
    return failed("postgres", "the stack uses an external database: set ORGANISM_DSN to ask it")


def _without_login(address: str) -> str:
    scheme, separator, rest = address.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
