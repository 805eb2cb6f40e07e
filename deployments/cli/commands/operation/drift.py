"""`organism drift`: show which tasks are escalated and why, and reset the sums."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from organism_flows.deployments.cli.output import AsJson, show

ASK_TIMEOUT_S = 15.0


async def drift(
    *,
    reset: Annotated[bool, Parameter(negative="", help="Set sums back to 0 before showing them.")] = False,
    type: Annotated[str | None, Parameter(name="--type", help="With --reset: only of this type.")] = None,
    domain: Annotated[str | None, Parameter(name="--domain", help="With --reset: of this domain.")] = None,
    url: Annotated[
        str | None,
        Parameter(help="Address of the organism's routes, which gets ORGANISM_TOKEN; unset: of the stack."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the rules of escalation, the sums of drift by type and domain, and the paths that tasks took."""
    import httpx

    from organism_flows.blocks.errors import ConfigurationError, OrganismUnavailable
    from organism_flows.blocks.http_clients import own_client
    from organism_flows.blocks.local_stack.access_token import bearer, own_headers
    from organism_flows.blocks.local_stack.stack_state import read_stack
    from organism_flows.blocks.settings import load_settings

    if (type or domain) and not reset:
        raise ConfigurationError("--type and --domain choose what to reset", "add --reset")
    settings = load_settings()
    # The stack's own token is for the stack alone.
    headers = bearer(settings.token) if url else own_headers(settings)
    if url is None:
        stack = read_stack(settings.home)
        if stack is None:
            raise OrganismUnavailable("no embedded stack is up", "run `organism up`, or give --url")
        url = stack.organism_url
    chosen = {name: value for name, value in (("type", type), ("domain", domain)) if value is not None}
    try:
        async with own_client(headers=dict(headers), timeout=ASK_TIMEOUT_S) as client:
            if reset:
                (await client.post(f"{url}/drift/reset", params=chosen)).raise_for_status()
            answer = (await client.get(f"{url}/drift")).raise_for_status()
            found: dict[str, Any] = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise OrganismUnavailable(
            f"the organism at {url} does not answer: {str(error) or error.__class__.__name__}",
            "see `organism status`",
        ) from None
    show(found, as_json, "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    rules = found["rules"]
    if rules is None:
        return ["nothing is escalated: the configuration has no escalation"]
    paths = ", ".join(f"{count} {path}" for path, count in found["paths"].items())
    lines = [f"planner {rules['planner'] or 'none'}; tasks of this replica: {paths}"]
    if rules["drift_score"] is not None:
        lines.append(f"a task with a drift score of {rules['drift_score']:g} or more is escalated")
    if cusum := rules["cusum"]:
        lines.append(f"above {cusum['bound']:g} a type and domain are escalated; sums above 0:")
        for one in found["sums"]:
            domain = f" for {one['domain']}" if one["domain"] is not None else ""
            lines.append(f"  {one['sum']:.3f}  {one['type']}{domain}")
    if found["valve_trouble"]:
        lines.append(f"the valve does not answer: {found['valve_trouble']}")
    return lines
