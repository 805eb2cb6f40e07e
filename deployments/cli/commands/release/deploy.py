"""`organism deploy`."""

from __future__ import annotations

from organism_flows.deployments.cli.output import AsJson, show


async def deploy(*, as_json: AsJson = False) -> None:
    """Apply blocks, work pool and the deployments of deployments/prefect.yaml to the Prefect server.

    The server is that of PREFECT_API_URL, or else of the embedded stack. Safe to repeat: schedules stay on or
    off as they are (see `organism schedule`).
    """
    # Importing flows points Prefect and Ray at the embedded stack, so it comes before Prefect.
    import organism_flows.flows.prefect_support.deployments as deploying

    applied = await deploying.apply()
    lines = [f"{name}{' (changed)' if name in applied.changed else ''}" for name in applied.deployments]
    lines.append(f"on {applied.api}")
    show(applied, as_json, "\n".join(lines))
