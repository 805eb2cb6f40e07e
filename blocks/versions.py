"""Versions of packages, compared between flows, lanes and replicas.

A flow, its lanes and the replicas that they call may run from different images. They then refuse each other
with one line, before a task is claimed.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.organism_reports import HealthReport
from organism_flows.blocks.queue.wire import WIRE_VERSION

PACKAGE = "organism-flows"
SAME_PACKAGES = (PACKAGE, "ray", "prefect", "pydantic")
"""Packages that must have one version wherever lanes, flows and replicas run: they exchange pickled objects.
"""
ONE_IMAGE = "run flows, every Ray node and the replicas from one image, with the same organism-flows"


@cache
def package_version() -> str:
    """Return the version of this project that is installed for this process."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "not installed"


def installed() -> dict[str, str]:
    """Return the versions that must be the same everywhere, as this process has them."""
    found = {"Python": platform.python_version()}
    for name in SAME_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Return a phrase for each version that differs between ``here`` and ``there``."""
    return [
        f"{name} {value} here, {there.get(name, 'not known')} there"
        for name, value in here.items()
        if there.get(name) != value
    ]


def refuse_other_wire(health: HealthReport) -> None:
    """Refuse replicas that speak another wire version than this process.

    Args:
        health: The answer of the organism's `health`.

    Raises:
        ConfigurationError: The wire versions differ, or the replicas are too old to report theirs.
    """
    theirs = health.wire_version
    if theirs == WIRE_VERSION:
        return
    raise ConfigurationError(
        f"the organism's replicas speak wire version {theirs or 'older than 4'} "
        f"(organism-flows {health.version}), lanes from here would speak {WIRE_VERSION} "
        f"(organism-flows {package_version()})",
        f"{ONE_IMAGE}, and deploy the organism again",
    )


def refuse_other_flow(flow_version: str, host: str) -> None:
    """Refuse to be a lane of a flow that runs another version of this project.

    Args:
        flow_version: `package_version` where the flow runs.
        host: Host of this lane.

    Raises:
        ConfigurationError: The versions differ.
    """
    if flow_version != package_version():
        raise ConfigurationError(
            f"organism-flows is {package_version()} on {host} and {flow_version} where the flow runs",
            ONE_IMAGE,
        )
