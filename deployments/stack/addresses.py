"""Addresses of a stack. They are chosen before any component is started."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import urlsplit

from organism_flows.blocks.settings import Settings
from organism_flows.blocks.stack_state import StackState
from organism_flows.deployments.stack.secret_files import own_prefect_secret, prefect_secret, ray_token
from organism_flows.deployments.stack.state import stack_id_of
from organism_flows.deployments.stack.system import ports


def plan(
    settings: Settings,
    home: Path,
    *,
    dsn: str,
    previous: StackState | None,
    kept: Collection[str],
    tell: Callable[[str, str], None],
) -> StackState:
    """Return the state of a stack that is about to start, with every port chosen.

    Components that keep running keep their ports. For the others, the ports of the last start are preferred.

    Args:
        settings: Settings in effect.
        home: Folder of the stack.
        dsn: Connection URL of the embedded database; empty for an external one.
        previous: State that the last start left, or `None`.
        kept: Roles that keep running.
        tell: Called with a component and a line for each port that is not the usual one.

    Raises:
        StackError: A port that the user asked for is taken.
    """
    taken: set[int] = set()

    def port(role: str, what: str, variable: str, wanted: int | None, default: int, last: int | None) -> int:
        if role in kept and last is not None:
            chosen = ports.PortChoice(last)
        else:
            chosen = ports.choose(what, variable, wanted, default, keep=last, taken=taken)
        taken.add(chosen.port)
        if chosen.note:
            tell(role, chosen.note)
        return chosen.port

    old = previous
    prefect = port(
        "prefect",
        "Prefect UI",
        "ORGANISM_PREFECT_PORT",
        settings.prefect_port,
        4200,
        port_of(old.prefect_ui_url) if old else None,
    )
    dashboard = port(
        "ray",
        "Ray dashboard",
        "ORGANISM_DASHBOARD_PORT",
        settings.dashboard_port,
        8265,
        port_of(old.ray_dashboard_url) if old else None,
    )
    http = port(
        "ray",
        "/organism routes",
        "ORGANISM_HTTP_PORT",
        settings.http_port,
        8000,
        port_of(old.organism_url) if old else None,
    )
    gateway = None
    if settings.gateway:
        gateway = port(
            "gateway",
            "gateway",
            "ORGANISM_GATEWAY_PORT",
            settings.gateway_port,
            8080,
            port_of(old.gateway_url) if old else None,
        )
    stack_id = stack_id_of(home)
    prefect_ui_url = f"http://{ports.LOOPBACK}:{prefect}"
    ray_address = old.ray_address if old is not None and "ray" in kept else ""
    return StackState(
        home=home,
        stack_id=stack_id,
        dsn=dsn,
        dsn_mark=dsn_mark(home, settings),
        ray_address=ray_address or f"{ports.LOOPBACK}:{ports.steady(stack_id, taken=taken)}",
        ray_token_path=ray_token(home),
        ray_dashboard_url=f"http://{ports.LOOPBACK}:{dashboard}",
        prefect_api_url=f"{prefect_ui_url}/api",
        prefect_ui_url=prefect_ui_url,
        prefect_secret_path=prefect_secret(home, own_prefect_secret(prefect_ui_url)),
        organism_url=f"http://{ports.LOOPBACK}:{http}/organism",
        gateway_url=f"http://{ports.LOOPBACK}:{gateway}" if gateway else "",
        processes={role: ref for role, ref in (old.processes if old else {}).items() if role in kept},
    )


def ignored_ports(settings: Settings, stack: StackState) -> list[str]:
    """Return a line for each port that the user asks for and the running ``stack`` does not have."""
    return [
        f"{variable}={wanted} has no effect on the running stack; run `organism down` first"
        for variable, wanted, url in (
            ("ORGANISM_PREFECT_PORT", settings.prefect_port, stack.prefect_ui_url),
            ("ORGANISM_DASHBOARD_PORT", settings.dashboard_port, stack.ray_dashboard_url),
            ("ORGANISM_HTTP_PORT", settings.http_port, stack.organism_url),
            ("ORGANISM_GATEWAY_PORT", settings.gateway_port, stack.gateway_url),
        )
        if wanted is not None and wanted != port_of(url)
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
