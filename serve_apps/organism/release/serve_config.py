"""The application to deploy for a configuration, in Serve's config schema."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from organism_flows.serve_apps.organism.config import (
    DeploymentConfig,
    OrganConfig,
    OrganismConfig,
    parse_config,
)
from organism_flows.serve_apps.organism.release.handler_code import code_digests

APP = "organism"
ROUTE_PREFIX = "/organism"
MANAGER = "OrganismManager"
VALVE = "DriftValve"
REQUESTS = 1000
"""Most calls on a replica. The organs' concurrency and the lanes' windows limit the work. If this limit did,
a cancellation would wait behind the calls that it should cancel. It is also the number of calls that Ray lets
an async actor run at once by default."""
CHECKS = {
    "health_check_period_s": 2,
    # Three misses end a replica whose loop a handler blocks. That is sooner than a lane takes the replica for
    # dead (`silence_s` of the Organism block), so that no further call is sent there.
    "health_check_timeout_s": 6,
    "graceful_shutdown_wait_loop_s": 0.5,
}
STOPPING_S = 10.0
"""Time for handlers to stop and hand their tasks back before Serve kills the replica, in seconds."""
LOOK_BACK_S = 5.0
"""Period over which Serve averages the load, in seconds. Its default of 30 s is half a minute of waiting."""


def serve_config(
    config: OrganismConfig,
    *,
    http_host: str = "127.0.0.1",
    http_port: int = 8000,
    replicas: int = 2,
    num_cpus: float = 0.25,
    python_path: Sequence[Path] = (),
) -> dict[str, Any]:
    """Return what to deploy, in Serve's config schema.

    Args:
        config: Configuration of the organism.
        http_host: Address that the /organism routes listen on. It cannot change while Serve runs.
        http_port: Port of the routes. It cannot change while Serve runs.
        replicas: Number of replicas. With two or more, others go on when one dies.
        num_cpus: CPUs that Ray reserves for each replica.
        python_path: More folders on the machines of the replicas to import handlers from.

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
                "import_path": "organism_flows.serve_apps.organism.app:build",
                **({"runtime_env": {"working_dir": config.working_dir}} if config.working_dir else {}),
                # A replica imports modules once, and Serve replaces replicas when something here differs.
                "args": {
                    "code": code_digests(config),
                    "organs": sorted(organs_apart(config)),
                    "valve": wants_valve(config),
                },
                # Serve does not pass the global logging configuration on to replicas.
                "logging_config": {"encoding": "JSON", "enable_access_log": False},
                "deployments": [
                    {
                        "name": MANAGER,
                        "num_replicas": replicas,
                        "max_ongoing_requests": REQUESTS,
                        # Calls to organs apart pass through it too.
                        **_checks(config.organs),
                        # New replicas start before the old ones stop. Otherwise a single replica would leave
                        # none for some seconds, and none at all if the new one fails.
                        "max_surge_percent": 100,
                        "ray_actor_options": {"num_cpus": num_cpus},
                        "user_config": config.model_dump(mode="json"),
                    },
                    *(organ_options(config, organ) for organ in organs_apart(config).values()),
                ],
            }
        ],
    }


def organ_deployment(organ_id: str) -> str:
    """Return the name of the deployment of an organ apart."""
    return f"organ-{organ_id}"


def organs_apart(config: OrganismConfig) -> dict[str, OrganConfig]:
    """Return the organs with a deployment of their own, by id."""
    return {organ.id: organ for organ in config.organs if organ.deployment}


def wants_valve(config: OrganismConfig) -> bool:
    """Return True if the configuration needs a drift valve."""
    return config.escalation is not None and config.escalation.cusum is not None


def organ_options(config: OrganismConfig, organ: OrganConfig) -> dict[str, Any]:
    """Return the deployment of an organ apart, in Serve's config schema."""
    assert organ.deployment is not None
    return {
        "name": organ_deployment(organ.id),
        **_scale(organ.deployment, organ.concurrency),
        **_checks([organ]),
        "ray_actor_options": _resources(organ.deployment),
        "user_config": config.alone(organ).model_dump(mode="json"),
    }


def _checks(organs: Iterable[OrganConfig]) -> dict[str, Any]:
    """Return when a replica with ``organs`` counts as unhealthy, and how long it may take to shut down."""
    longest = max((organ.drain_s for organ in organs), default=0.0)
    return {**CHECKS, "graceful_shutdown_timeout_s": longest + STOPPING_S}


def _scale(deployment: DeploymentConfig, concurrency: int) -> dict[str, Any]:
    # A replica takes only as many calls as it runs. Those that wait stay where Serve can give them to another
    # replica. Cancelling a call does not wait.
    common = {"max_ongoing_requests": concurrency}
    scaling = deployment.autoscaling
    if scaling is None:
        return {**common, "num_replicas": deployment.replicas}
    return {
        **common,
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.utilization * concurrency,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
            "look_back_period_s": LOOK_BACK_S,
        },
    }


def _resources(deployment: DeploymentConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": deployment.num_cpus}
    if deployment.num_gpus:
        options["num_gpus"] = deployment.num_gpus
    if deployment.memory_mb:
        options["memory"] = deployment.memory_mb * 1_000_000
    if deployment.resources:
        options["resources"] = deployment.resources
    return options
