"""What there is to kill or to replace in a stack, how each is found, and who brings it back."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

import psutil

from organism_flows.deployments.stack.local import marks_of
from organism_flows.deployments.stack.system.processes import find
from tests.chaos.project import edit_handlers
from tests.support.stack import Stack

Kind: TypeAlias = Literal[
    "lane", "replica", "worker", "controller", "proxy", "postgres", "prefect", "gateway", "flow", "ray",
    "poison", "redeploy", "relief",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Victim:
    """One kind of victim."""

    kind: Kind
    what: str
    """In words, for the report."""
    titles: tuple[str, ...] = ()
    """Names its processes have, of which one is killed."""
    needs_up: bool = False
    """`organism up` brings it back; the others come back by themselves or, the flow, by its schedule."""
    ends_replicas: bool = False
    """Or processes of handlers: whoever ran in one alone may be charged."""
    planned: bool = False
    """It is asked to end, not killed."""
    ends_everything: bool = False
    """Starting it anew takes what it takes: no time is promised."""


VICTIMS: dict[Kind, Victim] = {
    victim.kind: victim
    for victim in (
        Victim("lane", "a lane's worker process", ("ray::lane",)),
        Victim("replica", "the Serve replica", ("ray::ServeReplica:",), ends_replicas=True),
        Victim("worker", "a process of a handler", ends_replicas=True),
        Victim("controller", "the Serve controller", ("ray::ServeController",)),
        Victim("proxy", "the HTTP proxy", ("ray::ProxyActor",)),
        Victim("postgres", "the Postgres postmaster", needs_up=True),
        Victim("prefect", "the Prefect server", needs_up=True),
        Victim("gateway", "the gateway", needs_up=True),
        Victim("flow", "the flow's process (`organism dispatch`)"),
        Victim(
            "ray",
            "the Ray head (gcs_server or raylet)",
            ("gcs_server", "raylet"),
            needs_up=True,
            ends_replicas=True,
            ends_everything=True,
        ),
        Victim("poison", "the Serve replica, by a task that ends its process"),
        Victim(
            "redeploy",
            "(not killed) the Serve replica, replaced because the handlers' file was edited",
            needs_up=True,
            planned=True,
        ),
        Victim(
            "relief", "(not killed) the lanes of a run, asked to leave when another had begun", planned=True
        ),
    )
}


def kill(stack: Stack, kind: Kind, flow: subprocess.Popen[bytes] | None, pick: float) -> str | None:
    """Kill one process of a kind with SIGKILL, and no process that is not of this stack; for a redeploy, edit
    the handlers.

    Args:
        flow: The dispatch that runs.
        pick: Which of several: 0 the first, nearly 1 the last.

    Returns:
        Its name and pid; None: there is none at the moment.
    """
    with suppress(psutil.Error, ProcessLookupError):
        match kind:
            case "flow":
                process = psutil.Process(flow.pid) if flow and flow.poll() is None else None
            case "redeploy":
                return edit_handlers(stack)
            case "postgres" | "prefect" | "gateway":
                process = find(stack.state.processes[kind])
            case _:
                members = marks_of(stack.home).members(stack.state.processes, ["ray"])
                wanted = _runs_a_handler if kind == "worker" else _has_title(VICTIMS[kind].titles)
                titled = [p for p in members if wanted(p)]
                titled.sort(key=lambda p: p.pid)
                process = titled[int(pick * len(titled))] if titled else None
        if process is not None:
            name = f"{process.name()} {process.pid}"
            process.send_signal(signal.SIGKILL)
            return name
    return None


def _has_title(titles: tuple[str, ...]) -> Callable[[psutil.Process], bool]:
    return lambda process: process.name().startswith(titles)


def _runs_a_handler(process: psutil.Process) -> bool:
    return any("processes.subreaper" in argument for argument in process.cmdline())
