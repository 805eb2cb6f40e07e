"""`organism status`."""

from __future__ import annotations

from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.output import AsJson, show

SIGNS = {"healthy": "✓", "unhealthy": "✗", "stopped": "-"}


async def status(*, as_json: AsJson = False) -> int:
    """Check whether every component of the stack works.

    Exits with 0 if all do, and with 1 if one does not or nothing runs.
    """
    from organism_flows.blocks.settings import load_settings
    from organism_flows.deployments.stack.status import status as ask

    found = await ask(load_settings())
    lines = []
    for name, part in found.components.items():
        detail = f"  {part.detail}" if part.detail else ""
        lines.append(f"{SIGNS[part.state]} {name:9} {part.state:9} {part.address}{detail}")
    lines += [f"! {note}" for note in found.notes]
    match found.state:
        case "healthy":
            lines.append(f"healthy; {'; '.join(found.work)}" if found.work else "all healthy")
        case "stopped":
            lines.append("not running → `organism up`")
        case "unhealthy":
            lines.append(
                f"degraded: {', '.join(found.failing)} → `organism up` repairs; logs in {found.logs}"
            )
            lines += [f"also: {'; '.join(found.work)}"] if found.work else []
    show(found, as_json, "\n".join(lines))
    return ExitCode.DONE if found.state == "healthy" else ExitCode.FAILED
