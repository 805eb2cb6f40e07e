"""`organism verify`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from organism_flows.deployments.cli.exit_codes import OF_VERIFY
from organism_flows.deployments.cli.output import AsJson, show

SIGNS = {"ok": "✓", "degraded": "!", "failed": "✗"}


async def verify(
    *,
    canary: Annotated[bool, Parameter(help="Send a task through everything.")] = True,
    canary_seconds: Annotated[float, Parameter(help="How long it may take.")] = 60.0,
    oldest_ready: Annotated[float, Parameter(help="Seconds a task may be ready for.")] = 300.0,
    dead_letters: Annotated[int, Parameter(help="How many there may be.")] = 1000,
    as_json: AsJson = False,
) -> int:
    """Check every part of the system, and show what to do about each problem.

    Exits with 0 if all is ok, 1 if something is degraded, 2 if something has failed.
    """
    # Importing flows points Prefect and Ray at the embedded stack, so it comes before Prefect.
    import organism_flows.flows.dispatch  # noqa: F401  # isort: skip
    from organism_flows.flows.verification.runner import verify_all
    from organism_flows.flows.verification.thresholds import Thresholds

    limits = Thresholds(canary_s=canary_seconds, oldest_ready_s=oldest_ready, dead_letters=dead_letters)
    found = await verify_all(limits=limits, with_canary=canary)
    lines = []
    for f in found.findings:
        lines.append(f"{SIGNS[f.status]} {f.check}: {f.evidence}")
        if f.action:
            lines.append(f"    → {f.action}")
    lines.append(
        found.line if not found.troubles else f"{len(found.troubles)} of {len(found.findings)} checks"
    )
    show(
        {"status": found.status, "findings": [f.model_dump() for f in found.findings]},
        as_json,
        "\n".join(lines),
    )
    return OF_VERIFY[found.status]
