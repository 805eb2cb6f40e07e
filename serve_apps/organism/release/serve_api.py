"""Deployment of the organism through the REST interface of the Ray dashboard, as ``serve deploy`` does it.

Not `serve.run`: that replaces every replica even if only the configuration changes. A configuration that is
deployed is applied in place.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from organism_flows.blocks.errors import ConfigurationError, OrganismError, OrganismUnavailable
from organism_flows.blocks.http_clients import own_client
from organism_flows.blocks.local_stack.access_token import own_headers
from organism_flows.blocks.settings import load_settings
from organism_flows.serve_apps.organism.config import OrganismConfig, parse_config
from organism_flows.serve_apps.organism.release.serve_config import APP, MANAGER, ROUTE_PREFIX

POLL_S = 0.25
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


async def replace(
    dashboard_url: str,
    token: str | None,
    config_dict: dict[str, Any],
    timeout_s: float,
    on_progress: Callable[[str], None] | None = None,
) -> None:
    """Deploy ``config_dict`` and wait until it runs. If it does not, deploy again what ran before.

    Without that, a replica that starts later, after a crash or for more load, would get the broken
    configuration. And organs that lost their deployments with it would not come back.

    Args:
        dashboard_url: URL of the Ray dashboard.
        token: Ray's authentication token; `None` means the cluster has none.
        config_dict: What to deploy, made by `serve_config`.
        timeout_s: Longest wait in seconds, and once more for what ran before.
        on_progress: Called with one line whenever something has changed.

    Raises:
        OrganismError: It does not run. The message says what runs instead.
    """
    before = await deploy(dashboard_url, token, config_dict)
    try:
        await wait_until_running(dashboard_url, token, timeout_s, on_progress)
    except OrganismError as error:
        if before is None:
            raise
        if on_progress is not None:
            on_progress("going back to the configuration before")
        try:
            await deploy(dashboard_url, token, {**config_dict, "applications": [before]})
            await wait_until_running(dashboard_url, token, timeout_s, on_progress)
        except OrganismError as again:
            what = f"{error.what}; and the configuration before does not run either: {again.what}"
            raise type(error)(what, error.next_step) from None
        raise type(error)(
            f"{error.what} (the configuration before stays in effect)", error.next_step
        ) from None


async def running_config(dashboard_url: str, token: str | None) -> OrganismConfig | None:
    """Return the configuration of the organism that runs; `None` means that none runs.

    Raises:
        OrganismUnavailable: The dashboard cannot be reached.
        ConfigurationError: The token is refused.
    """
    app = (await details(dashboard_url, token)).get("applications", {}).get(APP) or {}
    deployment = app.get("deployments", {}).get(MANAGER) or {}
    user_config = (deployment.get("deployment_config") or {}).get("user_config")
    if app.get("status") != "RUNNING" or not user_config:
        return None
    return parse_config(user_config)


async def details(dashboard_url: str, token: str | None) -> dict[str, Any]:
    """Return what Serve runs, as the dashboard reports it.

    Raises:
        OrganismUnavailable: The dashboard cannot be reached.
        ConfigurationError: The token is refused.
    """
    async with _client(dashboard_url, token, timeout=10.0) as client:
        response = await _send(client, "GET")
        _check(response)
    found: dict[str, Any] = response.json()
    return found


async def deploy(dashboard_url: str, token: str | None, config_dict: dict[str, Any]) -> dict[str, Any] | None:
    """Pass ``config_dict`` to Serve, and return before the replicas are ready. Serve starts if need be.

    Args:
        dashboard_url: URL of the Ray dashboard.
        token: Ray's authentication token; `None` means the cluster has none.
        config_dict: What to deploy, made by `serve_config`.

    Returns:
        The application that ran until now, in Serve's config schema; `None` means that none ran.

    Raises:
        OrganismUnavailable: The dashboard cannot be reached.
        ConfigurationError: The token or the configuration is refused.
    """
    async with _client(dashboard_url, token, timeout=60.0) as client:
        response = await _send(client, "GET")
        _check(response)
        present = response.json()
        _check(await _send(client, "PUT", json=fitted(config_dict, present)))
    app = present.get("applications", {}).get(APP) or {}
    return app.get("deployed_app_config") if app.get("status") == "RUNNING" else None


def fitted(config_dict: dict[str, Any], details: dict[str, Any]) -> dict[str, Any]:
    """Return ``config_dict``, adapted to what ``details`` says is deployed.

    If Serve has given up an application, it tries it again only if something differs. But the reason of the
    failure may be gone, so a new ``retry`` is added. And code that is merely no longer used is no reason to
    replace replicas, so the deployed digests are kept then.
    """
    present = details.get("applications", {}).get(APP) or {}
    before = (present.get("deployed_app_config") or {}).get("args") or {}
    retry = uuid4().hex if present.get("status") == "DEPLOY_FAILED" else before.get("retry")
    # Keep ``retry`` afterwards: leaving it out again would replace the replicas for nothing.
    kept = {} if retry is None else {"retry": retry}
    code = before.get("code")
    applications = []
    for app in config_dict["applications"]:
        args = app.get("args", {})
        if app.get("name") == APP:
            args = {**args, **kept}
            if isinstance(code, dict) and (args.get("code") or {}).items() <= code.items():
                args["code"] = code
        applications.append({**app, "args": args})
    return {**config_dict, "applications": applications}


async def wait_until_running(
    dashboard_url: str,
    token: str | None,
    timeout_s: float,
    on_progress: Callable[[str], None] | None = None,
) -> None:
    """Return when every replica runs the configuration that was deployed last.

    Args:
        dashboard_url: URL of the Ray dashboard.
        token: Ray's authentication token; `None` means the cluster has none.
        timeout_s: Longest wait, in seconds.
        on_progress: Called with one line whenever something has changed.

    Raises:
        ConfigurationError: The configuration is wrong, for example a handler does not import.
        OrganismUnavailable: The deployment failed for another reason, or is not ready in time.
    """
    deadline = time.monotonic() + timeout_s
    reported = ""
    earlier: str | None = None
    async with _client(dashboard_url, token, timeout=10.0) as client:
        while True:
            response = await _send(client, "GET")
            _check(response)
            present = response.json()
            line, problem, ready = _progress(present)
            # Serve tries several times, but a wrong configuration stays wrong. The problem in the first
            # answer may still be one of the deployment before.
            if earlier is None:
                earlier = problem
            if problem and problem != earlier:
                raise _misconfigured(problem)
            if line != reported and on_progress is not None:
                on_progress(line)
            reported = line
            if ready:
                await _ask_organism(present, dashboard_url)
                return
            if time.monotonic() > deadline:
                raise OrganismUnavailable(
                    f"the organism is not ready after {timeout_s:g} s: {line}",
                    "check the Serve page of the Ray dashboard",
                )
            await asyncio.sleep(POLL_S)


def _progress(details: dict[str, Any]) -> tuple[str, str, bool]:
    """Return one line about the progress, the error in the configuration, and whether the deployment is done.

    Raises:
        ConfigurationError: The deployment has failed because of its configuration.
        OrganismUnavailable: The deployment has failed for another reason.
    """
    app = details.get("applications", {}).get(APP)
    if app is None:
        return "waiting for Serve", "", False
    deployments = app.get("deployments", {})
    manager = deployments.get(MANAGER, {})
    wanted = manager.get("target_num_replicas") or 0
    line = f"{_running(manager)} of {wanted or '?'} replicas running"
    for name, deployment in sorted(deployments.items()):
        if name != MANAGER:
            line += f", {name} {_running(deployment)} of {deployment.get('target_num_replicas', '?')}"
    message = "\n".join(str(part.get("message") or "") for part in (*deployments.values(), app))
    status = app.get("status")
    problem = _problem(message, deployments)
    if status == "DEPLOY_FAILED":
        if problem:
            raise _misconfigured(problem)
        raise OrganismUnavailable(
            f"the organism cannot be deployed: {useful_line(message)}",
            "check the Serve page of the Ray dashboard",
        )
    deployed_s = app.get("last_deployed_time_s") or float("inf")
    there = all(_is_there(deployment, deployed_s) for deployment in deployments.values())
    return line, problem, status in ("RUNNING", "DEPLOYING") and there and _running(manager) >= wanted > 0


def _is_there(deployment: dict[str, Any], deployed_s: float) -> bool:
    """Return True if a deployment runs as it was deployed last.

    Serve reports that only when the earlier replicas have stopped, which may take as long as their tasks.
    """
    if deployment.get("status") == "HEALTHY":
        return True
    fresh = sum(
        replica.get("state") == "RUNNING" and (replica.get("start_time_s") or 0.0) >= deployed_s
        for replica in deployment.get("replicas", [])
    )
    return (
        deployment.get("status") == "UPDATING" and fresh >= (deployment.get("target_num_replicas") or 0) > 0
    )


def _running(deployment: dict[str, Any]) -> int:
    return sum(replica.get("state") == "RUNNING" for replica in deployment.get("replicas", []))


def _problem(message: str, deployments: dict[str, Any]) -> str:
    """Return the configuration error in Serve's message; empty if there is none in this configuration."""
    found = re.findall(r"ConfigurationError: (.+)", message)
    if not found:
        return ""
    handler = re.search(r"handler '([^']+)'", found[-1])
    configs = [
        (deployment.get("deployment_config") or {}).get("user_config") or {}
        for deployment in deployments.values()
    ]
    if handler and handler[1] not in {
        organ.get("handler") for config in configs for organ in config.get("organs", [])
    }:
        # The error is of another configuration: replicas of the deployment before may still be failing.
        return ""
    return str(found[-1])


def _misconfigured(problem: str) -> ConfigurationError:
    what, _, next_step = problem.partition(" → ")
    return ConfigurationError(what, next_step)


async def _ask_organism(details: dict[str, Any], dashboard_url: str) -> None:
    """Check that the replicas took the configuration. Serve does not know whether they did.

    Raises:
        ConfigurationError: A replica refused it and goes on with the one before.
    """
    url = routes_url(details, dashboard_url)
    if url is None:
        return
    try:
        async with routes_client(url, timeout=15.0) as client:
            health = (await client.get("/health")).json()
            apart = (await client.get("/organs-apart")).json()
    except (httpx.HTTPError, ValueError):
        return  # the routes need not be reachable from here
    for one in (health, *apart.values()):
        if refused := one.get("refused_configuration"):
            raise _misconfigured(refused)


def routes_url(details: dict[str, Any], dashboard_url: str) -> str | None:
    """Return the base of the organism's HTTP routes; `None` means that Serve has none."""
    options = details.get("http_options") or {}
    host = options.get("host")
    if details.get("proxy_location") == "Disabled" or not host:
        return None
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = urlsplit(dashboard_url).hostname
    return f"http://{f'[{host}]' if ':' in str(host) else host}:{options.get('port')}{ROUTE_PREFIX}"


def routes_client(url: str, *, timeout: float) -> httpx.AsyncClient:
    """Return a client of the organism's HTTP routes at ``url``, with the token in effect."""
    local = urlsplit(url).hostname in _LOOPBACK
    headers = dict(own_headers(load_settings()))
    return own_client(base_url=url, headers=headers, timeout=timeout, trust_env=not local)


def useful_line(message: str) -> str:
    """Return the line of a Serve message that says what is wrong.

    This is the end of its last traceback or, without a traceback, its first line.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b.*", line)]
    return (errors or lines or ["no message"])[-1 if errors else 0][:500]


def _client(dashboard_url: str, token: str | None, *, timeout: float) -> httpx.AsyncClient:
    local = urlsplit(dashboard_url).hostname in _LOOPBACK
    return own_client(
        base_url=dashboard_url.rstrip("/"),
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=timeout,
        trust_env=not local,
    )


async def _send(client: httpx.AsyncClient, method: str, json: Any = None) -> httpx.Response:
    try:
        return await client.request(method, "/api/serve/applications/", json=json)
    except httpx.HTTPError as error:
        raise OrganismUnavailable(
            f"the Ray dashboard at {client.base_url} does not answer: {str(error) or type(error).__name__}",
            "start the stack with `organism up`",
        ) from None


def _check(response: httpx.Response) -> None:
    if response.status_code in (401, 403):
        raise ConfigurationError(
            f"the Ray dashboard refuses the authentication token ({response.status_code})",
            "use the token of this cluster (RAY_AUTH_TOKEN_PATH)",
        )
    if response.status_code == 400:
        raise ConfigurationError(
            f"Serve refuses the configuration: {useful_line(response.text)}", "correct the named field"
        )
    if response.is_error:
        raise OrganismUnavailable(
            f"the Ray dashboard answers {response.status_code}: {useful_line(response.text)}",
            "check the log of the Ray dashboard",
        )
