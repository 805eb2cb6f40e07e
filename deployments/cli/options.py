"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import ArgumentCollection, Group, Parameter

if TYPE_CHECKING:
    from organism_flows.serve_apps.organism.release.replacement import When

OfType = Annotated[str | None, Parameter(name="--type", help="Only of this type.")]
OfDomain = Annotated[str | None, Parameter(name="--domain", help="Only of this domain.")]
ConfigFile = Annotated[
    Path | None, Parameter(help="The configuration; unset: ORGANISM_CONFIG, else the demo organism.")
]


def _exclude_each_other(arguments: ArgumentCollection) -> None:
    names = [argument.name for argument in arguments if argument.tokens]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} exclude each other: give one of them")


_REPLACING = Group("When replicas are replaced", validator=_exclude_each_other)
WhenIdle = Annotated[
    bool,
    Parameter(
        name="--when-idle",
        negative="",
        group=_REPLACING,
        help="Wait until nothing runs on the replicas that are to be replaced.",
    ),
]
Now = Annotated[
    bool,
    Parameter(
        name="--now",
        negative="",
        group=_REPLACING,
        help="Hand back at once what runs on them, instead of after its drain_s.",
    ),
]


def when_replaced(when_idle: bool, now: bool) -> When:
    """Return when to interrupt tasks on replaced replicas, from the two options."""
    return "idle" if when_idle else "now" if now else "drain"
