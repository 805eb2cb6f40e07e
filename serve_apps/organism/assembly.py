"""The parts that an organism has under one configuration, and the change from one to the next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.wire import Outcomes, Policy
from organism_flows.serve_apps.organism.config import OrganConfig, OrganismConfig, parse_config
from organism_flows.serve_apps.organism.escalation.steps import EscalationRunner
from organism_flows.serve_apps.organism.execution.job_runner import JobRunner
from organism_flows.serve_apps.organism.execution.local.local_organ import LocalOrgan
from organism_flows.serve_apps.organism.execution.open_calls import OpenCalls
from organism_flows.serve_apps.organism.execution.remote_organ import OrganClient, RemoteOrgan
from organism_flows.serve_apps.organism.execution.router import Router
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.handler_api.handler import Handler
from organism_flows.serve_apps.organism.handler_api.loading import extend_import_path
from organism_flows.serve_apps.organism.processes.pool import closed_on_error, load
from organism_flows.serve_apps.organism.release.handler_code import code_version

logger = logging.getLogger("ray.serve.organism")

Connect: TypeAlias = "Callable[[str], OrganClient]"
"""Returns the client of an organ's own deployment, by the organ's id."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts that exist while one configuration is in effect."""

    config: OrganismConfig
    organs: Mapping[str, LocalOrgan | RemoteOrgan]
    router: Router
    escalation: EscalationRunner | None

    @property
    def runners(self) -> list[JobRunner]:
        """Return all parts that run tasks."""
        return [*self.organs.values(), *([self.escalation] if self.escalation else [])]

    def handler_of(self, organ: OrganConfig) -> Handler | None:
        """Return the handler that ``organ`` would load, if it is loaded here already, else `None`."""
        present = self.organs.get(organ.id)
        if not isinstance(present, LocalOrgan):
            return None
        before = present.config
        alike = (before.handler, before.batch, before.processes) == (
            organ.handler,
            organ.batch,
            organ.processes,
        )
        return present.handler if alike else None

    def policies(self, outcomes: Outcomes) -> dict[str, Policy]:
        """Return what the organs of these tasks say about retries, by organ id, if any may be retried."""
        policies: dict[str, Policy] = {}
        if any(cause in ("failed", "timed_out") for cause in outcomes.causes):
            for name in set(outcomes.organ_ids):
                if organ := self.organs.get(name or ""):
                    config = organ.config
                    policy = (config.max_attempts, config.backoff_base_s, config.backoff_cap_s)
                    if policy != (None, None, None):
                        policies[config.id] = policy
        return policies


def load_missing(config: OrganismConfig, present: Assembly | None) -> dict[str, Handler]:
    """Return the handlers of the organs that run here, by organ id. Keep those that are loaded already.

    This may take as long as importing a model.

    Raises:
        ConfigurationError: A handler cannot be used.
    """
    handlers: dict[str, Handler] = {}
    with closed_on_error(handlers):
        for organ in config.organs:
            if organ.deployment is None:
                handlers[organ.id] = (present.handler_of(organ) if present else None) or replace(
                    load(organ), version=code_version(config, organ)
                )
    return handlers


def assemble(
    config: OrganismConfig,
    handlers: Mapping[str, Handler],
    present: Assembly | None,
    shared: SharedState,
    connect: Connect,
) -> Assembly:
    """Return the parts that ``config`` describes. Keep the organs whose configuration has not changed.

    Args:
        config: The new configuration.
        handlers: Handlers by organ id, of the organs without a deployment of their own.
        present: The parts under the configuration before; `None` means there are none.
        shared: What everything that runs tasks shares.
        connect: Returns the client of an organ's own deployment, by the organ's id.

    Raises:
        ConfigurationError: An organ is to have a deployment, and the application has none for it.
    """
    organs: dict[str, LocalOrgan | RemoteOrgan] = {}
    with closed_on_error(handlers):
        for organ in config.organs:
            before = present.organs.get(organ.id) if present else None
            if before and before.config == organ:
                organs[organ.id] = before
            elif organ.deployment:
                organs[organ.id] = RemoteOrgan(organ, connect(organ.id), shared)
            else:
                organs[organ.id] = LocalOrgan(organ, handlers[organ.id], shared)
    router = Router(config, organs)
    planner = organs[config.escalation.planner] if config.escalation and config.escalation.planner else None
    return Assembly(
        config, organs, router, EscalationRunner(config, planner, router, shared) if planner else None
    )


def nowhere(organ_id: str) -> OrganClient:
    """Refuse to connect: for an organism none of whose organs has a deployment of its own.

    Raises:
        ConfigurationError: Always.
    """
    raise ConfigurationError(
        f"organ {organ_id!r} is to be a deployment of its own, and the application was built without it",
        "deploy the whole configuration with `organism up`, or name its file in the args of the application",
    )


class Assemblies:
    """The assembly in effect, and the organs of earlier ones that still have work.

    Args:
        shared: What everything that runs tasks shares.
        calls: The calls under way on the replica.
        connect: Returns the client of an organ's own deployment, by the organ's id.
    """

    def __init__(self, shared: SharedState, calls: OpenCalls, connect: Connect) -> None:
        self._shared = shared
        self._calls = calls
        self._connect = connect
        self._replacing = asyncio.Lock()
        self.current: Assembly | None = None
        self.retiring: list[JobRunner] = []
        """Runners of earlier assemblies that still have work."""
        self.refused: str | None = None
        """Error of the newest configuration, if it was refused."""

    @property
    def runners(self) -> list[JobRunner]:
        """Return everything that runs tasks or still has some."""
        return [*(self.current.runners if self.current else ()), *self.retiring]

    @property
    def config(self) -> OrganismConfig | None:
        """Return the configuration in effect."""
        return self.current.config if self.current else None

    @property
    def organs(self) -> list[LocalOrgan | RemoteOrgan]:
        """Return the organs in effect."""
        return list(self.current.organs.values()) if self.current else []

    def begin(self, user_config: OrganismConfig | dict[str, Any]) -> None:
        """Apply the first configuration.

        Raises:
            ConfigurationError: It is wrong or a handler does not import.
        """
        config = parse_config(user_config)
        extend_import_path(config.python_path)
        self._apply(config, load_missing(config, None))

    async def replace(self, user_config: OrganismConfig | dict[str, Any]) -> None:
        """Apply a configuration. Tasks that were accepted before end under the old one.

        Raises:
            ConfigurationError: It is wrong or a handler does not import. The old one stays in effect.
        """
        try:
            async with self._replacing:
                config = parse_config(user_config)
                extend_import_path(config.python_path)
                # In a thread: importing a model may take minutes, and tasks go on meanwhile.
                self._apply(config, await asyncio.to_thread(load_missing, config, self.current))
            self.refused = None
        except ConfigurationError as error:
            self.refused = str(error)
            logger.error("configuration refused: %s", error)
            raise

    def pump(self) -> None:
        """Start what can start now, and close old organs that nothing needs any more."""
        for runner in self.runners:
            runner.pump()
        for runner in list(self.retiring):
            if runner.idle and not runner.abandoned and not any(runner in work for work in self._calls):
                runner.close()
                self.retiring.remove(runner)

    def _apply(self, config: OrganismConfig, handlers: dict[str, Handler]) -> None:
        old = self.current
        new = self.current = assemble(config, handlers, old, self._shared, self._connect)
        self._shared.result_limit_bytes = config.result_limit_bytes
        # The limit was set for a replacement of this replica, and this is a change in place.
        self._calls.limit_drain()
        if old is not None:
            kept = set(map(id, new.runners))
            self.retiring += [runner for runner in old.runners if id(runner) not in kept]
        self.pump()
        logger.info("organism configured: %d organs, types %s", len(new.organs), ", ".join(new.router.types))
