"""The parts that an organism has under one configuration: organs, the router to them, the escalation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.wire import Outcomes, Policy
from organism_flows.serve_apps.organism.config import OrganConfig, OrganismConfig
from organism_flows.serve_apps.organism.escalation.steps import EscalationRunner
from organism_flows.serve_apps.organism.execution.local_organ import LocalOrgan
from organism_flows.serve_apps.organism.execution.protocol import JobRunner, SharedRules
from organism_flows.serve_apps.organism.execution.remote_organ import OrganClient, RemoteOrgan
from organism_flows.serve_apps.organism.handler_api.handler import Handler
from organism_flows.serve_apps.organism.processes.pool import closed_on_error, load
from organism_flows.serve_apps.organism.router import Router

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
                handlers[organ.id] = (present.handler_of(organ) if present else None) or load(organ)
    return handlers


def assemble(
    config: OrganismConfig,
    handlers: Mapping[str, Handler],
    present: Assembly | None,
    rules: SharedRules,
    connect: Connect,
) -> Assembly:
    """Return the parts that ``config`` describes. Keep the organs whose configuration has not changed.

    Args:
        config: The new configuration.
        handlers: Handlers by organ id, of the organs without a deployment of their own.
        present: The parts under the configuration before; `None` means there are none.
        rules: What everything that runs tasks shares.
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
                organs[organ.id] = RemoteOrgan(organ, connect(organ.id), rules)
            else:
                organs[organ.id] = LocalOrgan(organ, handlers[organ.id], rules)
    router = Router(config, organs)
    planner = organs[config.escalation.planner] if config.escalation and config.escalation.planner else None
    return Assembly(
        config, organs, router, EscalationRunner(config, planner, router, rules) if planner else None
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
