"""The gateway's HTTP routes, where the stack of this machine has one."""

from __future__ import annotations

import httpx

from organism_flows.blocks.access_token import own_headers
from organism_flows.blocks.settings import load_settings
from organism_flows.flows.verification.finding import Finding, failed, ok

HTTP_TIMEOUT_S = 10.0


async def check(url: str) -> list[Finding]:
    """Ask the gateway whether it is of use; that the organism answers it, is the organism's own finding.

    Args:
        url: Base of its routes.
    """
    name = "gateway: routes"
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=HTTP_TIMEOUT_S) as client:
            # With the token it says why it is not ready.
            answer = await client.get(f"{url}/readyz", headers=dict(own_headers(load_settings())))
    except httpx.HTTPError as error:
        why = f"{url} does not answer: {str(error) or type(error).__name__}"
        return [failed(name, why, "`organism up` starts it again; its log is gateway.log")]
    if answer.status_code != 200:
        words = " ".join(answer.text.split())[:200]
        return [failed(name, f"{url}/readyz answers {answer.status_code}: {words}", "see postgres")]
    return [ok(name, f"{url}/readyz answers 200: {answer.json()['status']}")]
