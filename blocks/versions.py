"""Which versions meet. A flow, its lanes and the replicas they call may be of different images: they refuse
each other in one line, before a task is claimed."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.wire import WIRE_VERSION

PACKAGE = "organism-flows"
SAME_PACKAGES = (PACKAGE, "ray", "prefect", "pydantic")
"""What must be of one version wherever lanes, flows and replicas run: objects travel between them pickled."""
ONE_IMAGE = "run flows, every Ray node and the replicas from one image, with the same organism-flows"


@cache
def package_version() -> str:
    """Of this project, as installed for this process."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "not installed"


def installed() -> dict[str, str]:
    """Versions that must be the same everywhere, as this process sees them."""
    found = {"Python": platform.python_version()}
    for name in SAME_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """A phrase for each version that differs."""
    return [
        f"{name} {value} here, {there.get(name, 'not known')} there"
        for name, value in here.items()
        if there.get(name) != value
    ]


def refuse_other_wire(health: Mapping[str, Any]) -> None:
    """Refuse replicas that speak another wire version than lanes of this process's version.

    Args:
        health: What the organism's `health` said.

    Raises:
        ConfigurationError: They do, or are older than the question.
    """
    theirs = health.get("wire_version")
    if theirs == WIRE_VERSION:
        return
    raise ConfigurationError(
        f"the organism's replicas speak wire version {theirs or 'older than 4'} "
        f"(organism-flows {health.get('version', 'unknown')}), lanes from here would speak {WIRE_VERSION} "
        f"(organism-flows {package_version()})",
        f"{ONE_IMAGE}, and deploy the organism again",
    )


def refuse_other_flow(flow_version: str, host: str) -> None:
    """Refuse to be a lane of a flow of another version.

    Args:
        flow_version: `package_version` where the flow runs.
        host: Where this lane runs.

    Raises:
        ConfigurationError: It is another.
    """
    if flow_version != package_version():
        raise ConfigurationError(
            f"organism-flows is {package_version()} on {host} and {flow_version} where the flow runs",
            ONE_IMAGE,
        )
