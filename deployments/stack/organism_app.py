"""The Serve application `organism` on the embedded stack: configuration, deployment, first answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.local_stack.stack_state import StackState
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack.addresses import port_of
from organism_flows.deployments.stack.health import check_organism
from organism_flows.deployments.stack.system.ports import LOOPBACK

if TYPE_CHECKING:
    import httpx

    from organism_flows.serve_apps.organism.release.replacement import ReplacementDone, When

TIMEOUT = 120.0
"""Time until every replica has to run, in seconds. Handlers may load models."""
FIRST_ANSWER = 15.0
"""Time until the HTTP routes have to answer, in seconds."""


@dataclass(frozen=True)
class OrganismApp:
    """A valid configuration of the organism."""

    path: Path | None
    """Path of the configuration; `None` for the demo organism."""
    config: Any
    python_path: list[Path]
    replicas: int


async def load(settings: Settings, path: Path | None = None) -> OrganismApp:
    """Return the organism's configuration, read from its file.

    Args:
        settings: Settings in effect.
        path: Path of the configuration, instead of the setting.

    Raises:
        ConfigurationError: The configuration is wrong. The message says where.
    """
    path = Path.cwd() / path if path else settings.config
    folders = [path.parent] if path else []
    from organism_flows.serve_apps.organism.config import load_config

    config = await asyncio.to_thread(load_config, path)
    return OrganismApp(path, config, [*folders, Path.cwd()], settings.replicas)


async def deploy(
    app: OrganismApp,
    stack: StackState,
    *,
    when: When = "drain",
    on_note: Callable[[str], None],
    on_progress: Callable[[str], None] | None = None,
) -> list[ReplacementDone]:
    """Deploy the application on the running cluster. To deploy the same again changes nothing.

    Args:
        app: The configuration to deploy.
        stack: The running stack.
        when: When to interrupt tasks that run on replaced replicas.
        on_note: Called with a line about each change before it is made.
        on_progress: Called with lines about what Serve is doing.

    Returns:
        The changes.

    Raises:
        OrganismError: The application cannot be deployed, or does not run in time.
    """
    from organism_flows.serve_apps.organism.release import replacement
    from organism_flows.serve_apps.organism.release.serve_config import serve_config

    token = stack.ray_token_path.read_text().strip()
    config = serve_config(
        app.config,
        http_host=LOOPBACK,
        http_port=port_of(stack.organism_url) or 8000,
        replicas=app.replicas,
        num_cpus=0.5,
        python_path=app.python_path,
    )
    url = stack.ray_dashboard_url
    plan = await replacement.plan(url, token, config)
    return await replacement.carry_out(
        plan, url, token, TIMEOUT, when=when, on_note=on_note, on_progress=on_progress
    )


async def declare_limits(app: OrganismApp, settings: Settings, *, on_note: Callable[[str], None]) -> None:
    """Set the limits, weights and policies that the configuration declares, in tables that are up to date.

    Args:
        app: The organism, with its configuration.
        settings: Name the database.
        on_note: Told what has changed.
    """
    if not app.config.declares:
        return
    from organism_flows.blocks.local_stack.stack_state import queue_dsn
    from organism_flows.blocks.queue import Queue

    async with Queue(queue_dsn(settings).get_secret_value(), connections=1) as queue:
        declared = (app.config.limits, app.config.weights, app.config.policies)
        if changed := await queue.operator.declare(*declared):
            on_note(f"limits set or removed, as the configuration declares: {', '.join(changed)}")


async def wait_until_healthy(client: httpx.AsyncClient, stack: StackState) -> None:
    """Wait until the organism reports through HTTP that it is healthy.

    Raises:
        StackError: It did not do so in time.
    """
    deadline = time.monotonic() + FIRST_ANSWER
    while not (answer := await check_organism(client, stack)).ok:
        if time.monotonic() > deadline:
            raise StackError(
                f"the organism does not answer: {answer.evidence}", f"read {stack.home / 'logs' / 'ray.log'}"
            )
        await asyncio.sleep(0.05)
