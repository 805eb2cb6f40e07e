"""Addresses of a stack. They are chosen before any component is started."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from organism_flows.blocks.local_stack.stack_state import StackState
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack.secret_files import own_prefect_secret, prefect_secret, ray_token
from organism_flows.deployments.stack.state import stack_id_of
from organism_flows.deployments.stack.system import ports


@dataclass(frozen=True)
class StackPort:
    """A port that a user can choose."""

    role: str
    what: str
    """What is reached there, for messages."""
    setting: str
    """Name of its field in `Settings`."""
    url: str
    """Name of the field of `StackState` that has it."""
    default: int

    @property
    def variable(self) -> str:
        """Return the environment variable of the setting."""
        return f"ORGANISM_{self.setting.upper()}"

    def wanted(self, settings: Settings) -> int | None:
        """Return the port that the user asks for, or `None`."""
        port: int | None = getattr(settings, self.setting)
        return port

    def of(self, stack: StackState) -> int | None:
        """Return the port that a stack has, or `None`."""
        return port_of(getattr(stack, self.url))


PORTS = (
    StackPort("prefect", "Prefect UI", "prefect_port", "prefect_ui_url", 4200),
    StackPort("ray", "Ray dashboard", "dashboard_port", "ray_dashboard_url", 8265),
    StackPort("ray", "/organism routes", "http_port", "organism_url", 8000),
    StackPort("gateway", "gateway", "gateway_port", "gateway_url", 8080),
)


def plan(
    settings: Settings,
    home: Path,
    *,
    dsn: str,
    previous: StackState | None,
    kept: Collection[str],
    on_note: Callable[[str, str], None],
) -> StackState:
    """Return the state of a stack that is about to start, with every port chosen.

    Components that keep running keep their ports. For the others, the ports of the last start are preferred.

    Args:
        settings: Settings in effect.
        home: Folder of the stack.
        dsn: Connection URL of the embedded database; empty for an external one.
        previous: State that the last start left, or `None`.
        kept: Roles that keep running.
        on_note: Called with a component and a line for each port that is not the usual one.

    Raises:
        StackError: A port that the user asked for is taken.
    """
    taken: set[int] = set()
    chosen: dict[str, int] = {}
    for port in PORTS:
        if port.role == "gateway" and not settings.gateway:
            continue
        last = port.of(previous) if previous else None
        if port.role in kept and last is not None:
            choice = ports.PortChoice(last)
        else:
            choice = ports.choose(
                port.what, port.variable, port.wanted(settings), port.default, keep=last, taken=taken
            )
        taken.add(choice.port)
        chosen[port.url] = choice.port
        if choice.note:
            on_note(port.role, choice.note)
    stack_id = stack_id_of(home)
    base = {url: f"http://{ports.LOOPBACK}:{number}" for url, number in chosen.items()}
    prefect_ui_url = base["prefect_ui_url"]
    ray_address = previous.ray_address if previous is not None and "ray" in kept else ""
    running = previous.processes if previous else {}
    return StackState(
        home=home,
        stack_id=stack_id,
        dsn=dsn,
        dsn_mark=dsn_mark(home, settings),
        ray_address=ray_address or f"{ports.LOOPBACK}:{ports.steady(stack_id, taken=taken)}",
        ray_token_path=ray_token(home),
        ray_dashboard_url=base["ray_dashboard_url"],
        prefect_api_url=f"{prefect_ui_url}/api",
        prefect_ui_url=prefect_ui_url,
        prefect_secret_path=prefect_secret(home, own_prefect_secret(prefect_ui_url)),
        organism_url=f"{base['organism_url']}/organism",
        gateway_url=base.get("gateway_url", ""),
        processes={role: ref for role, ref in running.items() if role in kept},
    )


def ignored_ports(settings: Settings, stack: StackState) -> list[str]:
    """Return a line for each port that the user asks for and the running ``stack`` does not have."""
    return [
        f"{port.variable}={wanted} has no effect on the running stack; run `organism down` first"
        for port in PORTS
        if (wanted := port.wanted(settings)) is not None and wanted != port.of(stack)
    ]


def dsn_mark(home: Path, settings: Settings) -> str:
    """Return a fingerprint of the external database's URL, keyed with the stack's token to hide the URL."""
    if settings.dsn is None:
        return ""
    key = ray_token(home).read_bytes()
    return hmac.new(key, settings.dsn.get_secret_value().encode(), hashlib.sha256).hexdigest()[:16]


def port_of(url: str) -> int | None:
    """Return the port in ``url``."""
    return urlsplit(url if "//" in url else f"//{url}").port
