"""Deploys the organism through the REST interface of the Ray dashboard, as ``serve deploy`` does.

Not `serve.run`: that replaces every replica even for a configuration-only change, while a deployed
configuration is applied in place.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx

from blocks.errors import ConfigurationError, OrganismError, OrganismUnavailable
from serve_apps.organism.config import OrganismConfig, parse_config
from serve_apps.organism.deployments import (
    CHECKS,
    MANAGER,
    REQUESTS,
    organ_options,
    organs_apart,
    wants_valve,
)

APP = "organism"
DEPLOYMENT = MANAGER
ROUTE_PREFIX = "/organism"
POLL_S = 0.25
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def serve_config(
    config: OrganismConfig,
    *,
    http_host: str = "127.0.0.1",
    http_port: int = 8000,
    replicas: int = 2,
    num_cpus: float = 0.25,
    python_path: Sequence[Path] = (),
) -> dict[str, Any]:
    """What to deploy, in Serve's config schema.

    Args:
        config: The organism.
        http_host: Address the /organism routes listen on; cannot change while Serve runs.
        http_port: Their port; cannot change while Serve runs.
        replicas: Number of replicas; two or more, and the death of one goes unnoticed.
        num_cpus: CPUs Ray sets aside for each replica.
        python_path: Folders on the machines of the replicas to import handlers from, besides the config's.

    Raises:
        ConfigurationError: The configuration is wrong.
    """
    config = parse_config(config)
    folders = [*config.python_path, *(path.resolve() for path in python_path)]
    config = config.model_copy(update={"python_path": list(dict.fromkeys(folders))})
    return {
        "proxy_location": "HeadOnly",
        # The schema's own default is every interface.
        "http_options": {"host": http_host, "port": http_port},
        "logging_config": {"encoding": "JSON", "enable_access_log": False},
        "applications": [
            {
                "name": APP,
                "route_prefix": ROUTE_PREFIX,
                "import_path": "serve_apps.organism.app:build",
                **({"runtime_env": {"working_dir": config.working_dir}} if config.working_dir else {}),
                # Modules are imported once a replica; Serve replaces replicas when something here differs.
                "args": {
                    "code": code_digest(config),
                    "organs": sorted(organs_apart(config)),
                    "valve": wants_valve(config),
                },
                # Serve does not hand the global logging configuration down to replicas.
                "logging_config": {"encoding": "JSON", "enable_access_log": False},
                "deployments": [
                    {
                        "name": DEPLOYMENT,
                        "num_replicas": replicas,
                        "max_ongoing_requests": REQUESTS,
                        **CHECKS,
                        # Replacements start before the ones they replace stop: with one replica there would
                        # else be none for some seconds, and none at all if they fail.
                        "max_surge_percent": 100,
                        "ray_actor_options": {"num_cpus": num_cpus},
                        "user_config": config.model_dump(mode="json"),
                    },
                    *(organ_options(config, organ) for organ in organs_apart(config).values()),
                ],
            }
        ],
    }


async def replace(
    dashboard_url: str,
    token: str | None,
    config_dict: dict[str, Any],
    timeout_s: float,
    on_progress: Callable[[str], None] | None = None,
) -> None:
    """Deploy ``config_dict`` and wait until it runs; where it does not, deploy again what ran before.

    Without that a replica that starts later, after a crash or for more load, would start with the broken one;
    and organs that lost their deployments with it would not come back.

    Args:
        dashboard_url: URL of the Ray dashboard.
        token: Ray's authentication token; None: the cluster has none.
        config_dict: What `serve_config` gave.
        timeout_s: Seconds to wait at most, and once more for what ran before.
        on_progress: Called with one line whenever something changed.

    Raises:
        OrganismError: It does not run; the message says what runs instead.
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
    """The configuration of the organism that runs; None: none does.

    Raises:
        OrganismUnavailable: The dashboard cannot be reached.
        ConfigurationError: The token is refused.
    """
    async with _client(dashboard_url, token, timeout=10.0) as client:
        response = await _send(client, "GET")
        _check(response)
    app = response.json().get("applications", {}).get(APP) or {}
    deployment = app.get("deployments", {}).get(DEPLOYMENT) or {}
    user_config = (deployment.get("deployment_config") or {}).get("user_config")
    if app.get("status") != "RUNNING" or not user_config:
        return None
    return parse_config(user_config)


async def deploy(dashboard_url: str, token: str | None, config_dict: dict[str, Any]) -> dict[str, Any] | None:
    """Hand ``config_dict`` to Serve, which starts if need be; returns before the replicas are ready.

    Args:
        dashboard_url: URL of the Ray dashboard.
        token: Ray's authentication token; None: the cluster has none.
        config_dict: What `serve_config` gave.

    Returns:
        The application that ran until now, in the words of Serve's config schema; None: none did.

    Raises:
        OrganismUnavailable: The dashboard cannot be reached.
        ConfigurationError: The token or the configuration is refused.
    """
    async with _client(dashboard_url, token, timeout=60.0) as client:
        response = await _send(client, "GET")
        _check(response)
        details = response.json()
        _check(await _send(client, "PUT", json=_with_retry(config_dict, details)))
    app = details.get("applications", {}).get(APP) or {}
    return app.get("deployed_app_config") if app.get("status") == "RUNNING" else None


def _with_retry(config_dict: dict[str, Any], details: dict[str, Any]) -> dict[str, Any]:
    """``config_dict``, such that Serve tries again an application it has given up.

    Deploying the same configuration once more does nothing, though the reason of the failure may be gone.
    """
    present = details.get("applications", {}).get(APP) or {}
    retry = ((present.get("deployed_app_config") or {}).get("args") or {}).get("retry")
    if present.get("status") == "DEPLOY_FAILED":
        retry = uuid4().hex
    if retry is None:
        return config_dict
    # Kept while all is well: leaving it out again would replace the replicas for nothing.
    applications = [
        {**app, "args": {**app.get("args", {}), "retry": retry}} if app.get("name") == APP else app
        for app in config_dict["applications"]
    ]
    return {**config_dict, "applications": applications}


def code_digest(config: OrganismConfig) -> str | None:
    """Digest of the handlers' code that lies in the configuration's own folders; None: none does.

    Installed packages are not looked at: a new version of those comes with a new environment.
    """
    digest = hashlib.sha256()
    modules = sorted({organ.handler.partition(".")[0].partition(":")[0] for organ in config.organs})
    found = False
    for folder in config.python_path:
        for module in modules:
            package = folder / module
            files = sorted(package.rglob("*.py")) if package.is_dir() else [package.with_suffix(".py")]
            for file in filter(Path.is_file, files):
                found = True
                digest.update(f"{file}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16] if found else None


async def wait_until_running(
    dashboard_url: str,
    token: str | None,
    timeout_s: float,
    on_progress: Callable[[str], None] | None = None,
) -> None:
    """Return when every replica runs the configuration deployed last.

    Args:
        dashboard_url: URL of the Ray dashboard.
        token: Ray's authentication token; None: the cluster has none.
        timeout_s: Seconds to wait at most.
        on_progress: Called with one line whenever something changed.

    Raises:
        ConfigurationError: The configuration is wrong, for example a handler that does not import.
        OrganismUnavailable: It failed otherwise, or is not ready in time.
    """
    deadline = time.monotonic() + timeout_s
    said = ""
    earlier: str | None = None
    async with _client(dashboard_url, token, timeout=10.0) as client:
        while True:
            response = await _send(client, "GET")
            _check(response)
            details = response.json()
            line, problem, ready = _progress(details)
            # Serve tries several times, but a wrong configuration stays wrong. What the first look shows may
            # still be about the deployment before.
            if earlier is None:
                earlier = problem
            if problem and problem != earlier:
                raise _misconfigured(problem)
            if line != said and on_progress is not None:
                on_progress(line)
            said = line
            if ready:
                await _ask_organism(details, dashboard_url)
                return
            if time.monotonic() > deadline:
                raise OrganismUnavailable(
                    f"the organism is not ready after {timeout_s:g} s: {line}",
                    "look at the Serve page of the Ray dashboard",
                )
            await asyncio.sleep(POLL_S)


def _progress(details: dict[str, Any]) -> tuple[str, str, bool]:
    """One line about where the deployment stands, what is wrong with its config, whether it is done.

    Raises:
        ConfigurationError: It has failed, for its configuration.
        OrganismUnavailable: It has failed otherwise.
    """
    app = details.get("applications", {}).get(APP)
    if app is None:
        return "waiting for Serve", "", False
    deployments = app.get("deployments", {})
    manager = deployments.get(DEPLOYMENT, {})
    wanted = manager.get("target_num_replicas") or 0
    line = f"{_running(manager)} of {wanted or '?'} replicas running"
    for name, deployment in sorted(deployments.items()):
        if name != DEPLOYMENT:
            line += f", {name} {_running(deployment)} of {deployment.get('target_num_replicas', '?')}"
    message = "\n".join(str(part.get("message") or "") for part in (*deployments.values(), app))
    status = app.get("status")
    problem = _problem(message, deployments)
    if status == "DEPLOY_FAILED":
        if problem:
            raise _misconfigured(problem)
        raise OrganismUnavailable(
            f"the organism cannot be deployed: {useful_line(message)}",
            "look at the Serve page of the Ray dashboard",
        )
    healthy = all(deployment.get("status") == "HEALTHY" for deployment in deployments.values())
    return line, problem, status == "RUNNING" and healthy and _running(manager) >= wanted > 0


def _running(deployment: dict[str, Any]) -> int:
    return sum(replica.get("state") == "RUNNING" for replica in deployment.get("replicas", []))


def _problem(message: str, deployments: dict[str, Any]) -> str:
    """The configuration error in Serve's message; empty: none, or one about an earlier configuration."""
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
        # Replicas of the deployment before may still be failing.
        return ""
    return str(found[-1])


def _misconfigured(problem: str) -> ConfigurationError:
    what, _, next_step = problem.partition(" → ")
    return ConfigurationError(what, next_step)


async def _ask_organism(details: dict[str, Any], dashboard_url: str) -> None:
    """Make sure that the replicas took the configuration: to Serve they look alike whether they did or not.

    Raises:
        ConfigurationError: They refused it and go on with the one before.
    """
    options = details.get("http_options") or {}
    host = options.get("host")
    if details.get("proxy_location") == "Disabled" or not host:
        return
    if host in ("0.0.0.0", "::"):  # noqa: S104
        host = urlsplit(dashboard_url).hostname
    url = f"http://{f'[{host}]' if ':' in str(host) else host}:{options.get('port')}{ROUTE_PREFIX}"
    try:
        async with httpx.AsyncClient(timeout=15.0, trust_env=host not in _LOOPBACK) as client:
            health = (await client.get(f"{url}/health")).json()
            apart = (await client.get(f"{url}/organs-apart")).json()
    except (httpx.HTTPError, ValueError):
        return  # the routes need not be reachable from here
    for one in (health, *apart.values()):
        if refused := one.get("refused_configuration"):
            raise _misconfigured(refused)


def useful_line(message: str) -> str:
    """The line of a Serve message that says what is wrong: the end of its last traceback, or the first."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit|Interrupt)\b.*", line)]
    return (errors or lines or ["no message"])[-1 if errors else 0][:500]


def _client(dashboard_url: str, token: str | None, *, timeout: float) -> httpx.AsyncClient:
    local = urlsplit(dashboard_url).hostname in _LOOPBACK
    return httpx.AsyncClient(
        base_url=dashboard_url.rstrip("/"),
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=timeout,
        trust_env=not local,  # a proxy of the environment knows nothing of our loopback
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
            "look at the log of the Ray dashboard",
        )
