"""What one configuration makes of an organism: its organs, the router to them, and the escalation."""

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
"""Gives the client of the deployment of an organ, by the organ's id."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """What there is while one configuration is in effect."""

    config: OrganismConfig
    organs: Mapping[str, LocalOrgan | RemoteOrgan]
    router: Router
    escalation: EscalationRunner | None

    @property
    def runners(self) -> list[JobRunner]:
        """Everything in it that runs tasks."""
        return [*self.organs.values(), *([self.escalation] if self.escalation else [])]

    def handler_of(self, organ: OrganConfig) -> Handler | None:
        """The handler that an organ of this configuration would load, if there is one already."""
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
        """What the organs say of how often and when to try again, where that may happen."""
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
    """The handlers of the organs that are to run here, by organ id; those loaded already as they are.

    May take as long as it takes to import a model.

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
    """Make what ``config`` says; organs that stay as they are stay.

    Args:
        handlers: By organ id, of those without a deployment of their own.
        present: What there was before.

    Raises:
        ConfigurationError: There is no deployment of an organ that is to have one.
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
    """For an organism none of whose organs has a deployment.

    Raises:
        ConfigurationError: Always.
    """
    raise ConfigurationError(
        f"organ {organ_id!r} is to be a deployment of its own, and the application was built without it",
        "deploy the whole configuration with `organism up`, or name its file in the args of the application",
    )
