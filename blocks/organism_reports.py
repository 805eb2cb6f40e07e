"""What a replica of the organism reports of itself: the answers of its `health` and `status`.

Replicas build them, and every caller reads them: lanes, flows, `verify` and the gateway. A replica of another
version may report other fields: those are kept, and ones that it lacks have their defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from organism_flows.blocks.errors import OrganismUnavailable
from organism_flows.blocks.validation import first_error

Count = Annotated[int, Field(ge=0)]


class Report(BaseModel):
    """A part of a report."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @classmethod
    def of(cls, answer: Any) -> Self:
        """Return the report in the answer of a replica.

        Raises:
            OrganismUnavailable: It is no such report.
        """
        try:
            return cls.model_validate(answer)
        except ValidationError as error:
            raise OrganismUnavailable(
                f"the organism's answer is not a {cls.__name__}: {first_error(error)}",
                "see that the organism runs this version of organism-flows",
            ) from None

    def plain(self) -> dict[str, Any]:
        """Return the report as plain data, with the fields that the replica has set."""
        return self.model_dump(mode="json", exclude_unset=True)


class HealthReport(Report):
    """Whether a replica serves."""

    status: Literal["healthy", "degraded", "unhealthy"]
    """``degraded``: it does not serve by the latest configuration; see ``refused_configuration``."""
    organism_initialized: bool = False
    """It has a configuration."""
    problem: str | None = None
    """Why it is unhealthy."""
    refused_configuration: str | None = None
    """Why the latest configuration was refused."""
    uptime_s: float = 0.0
    pid: int | None = None
    replica: str | None = None
    version: str = "unknown"
    """Version of organism-flows."""
    wire_version: int | None = None
    """Version of the format of batches and outcomes. `None` means older than 4."""

    @property
    def reason(self) -> str | None:
        """Return why it is not healthy."""
        return self.problem or self.refused_configuration


class OrganReport(Report):
    """What one organ on a replica does and has done, with its configuration."""

    in_flight: Count
    """Tasks in handlers."""
    waiting: Count
    """Tasks that wait for a handler."""


class EnvironmentReport(Report):
    """Where a replica runs."""

    python: str
    packages: Mapping[str, str]
    variables: Mapping[str, str]
    """Environment variables, with secrets masked."""


class StatusReport(HealthReport):
    """What a replica serves and has done."""

    task_types: list[str] | None = None
    organs: Mapping[str, OrganReport]
    totals: Mapping[str, int] = Field(default_factory=dict)
    """The counters of all organs together."""
    draining: bool = False
    """It is being taken down, and takes no tasks."""
    lingering: int = 0
    """Handler calls that were asked to stop and go on."""
    retiring_organs: int = 0
    """Organs of an earlier configuration that still run tasks."""
    escalation: dict[str, Any] | None = None
    drift: dict[str, Any] = Field(default_factory=dict)
    environment: EnvironmentReport | None = None
    config: dict[str, Any] | None = None
    """The configuration in effect."""

    @property
    def served_types(self) -> list[str] | None:
        """Return the task types it serves.

        Returns:
            `None` means that a default organ takes every type that no other organ serves, or that the report
            names no types.
        """
        return None if (self.config or {}).get("default_organ") else self.task_types
