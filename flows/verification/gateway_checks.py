"""Check of the gateway's HTTP routes, if the stack on this machine has a gateway."""

from __future__ import annotations

import httpx

from organism_flows.blocks.finding import Finding, failed, ok
from organism_flows.blocks.http_clients import own_client
from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.settings import load_settings

HTTP_TIMEOUT_S = 10.0


async def check(url: str) -> list[Finding]:
    """Return whether the gateway is ready. The checks of the cluster find out if the organism answers.

    Args:
        url: Base URL of its routes.
    """
    name = "gateway: routes"
    try:
        async with own_client(timeout=HTTP_TIMEOUT_S) as client:
            # Only with the token does the answer say why the gateway is not ready.
            answer = await client.get(f"{url}/readyz", headers=dict(own_headers(load_settings())))
    except httpx.HTTPError as error:
        why = f"{url} does not answer: {str(error) or type(error).__name__}"
        return [failed(name, why, "`organism up` starts it again; its log is gateway.log")]
    if answer.status_code != 200:
        words = " ".join(answer.text.split())[:200]
        return [failed(name, f"{url}/readyz answers {answer.status_code}: {words}", "see postgres")]
    return [ok(name, f"{url}/readyz answers 200: {answer.json()['status']}")]
