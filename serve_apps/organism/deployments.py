"""The deployments of the application besides the manager, as the configuration wants them."""

from __future__ import annotations

from typing import Any

from serve_apps.organism.config import DeploymentConfig, OrganConfig, OrganismConfig

MANAGER = "OrganismManager"
VALVE = "DriftValve"
REQUESTS = 1000
"""Most calls on a replica. Organs' concurrency and lanes' windows limit the work; if this did, a cancellation
would wait in line behind what it is to cancel. It is also how many calls Ray lets an async actor run at once
by default."""
CHECKS = {
    "health_check_period_s": 2,
    # Three misses end a replica whose loop a handler blocks: sooner than a lane takes it for dead
    # (Organism.silence_s), so that no call is sent there again.
    "health_check_timeout_s": 6,
    "graceful_shutdown_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 0.5,
}
LOOK_BACK_S = 5.0
"""Over which Serve averages the load; its own default, 30 s, is half a minute of waiting."""


def organ_deployment(organ_id: str) -> str:
    """Name of the deployment of an organ apart."""
    return f"organ-{organ_id}"


def organs_apart(config: OrganismConfig) -> dict[str, OrganConfig]:
    """The organs with a deployment of their own, by id."""
    return {organ.id: organ for organ in config.organs if organ.deployment}


def wants_valve(config: OrganismConfig) -> bool:
    """Whether there is anything to sum up."""
    return config.escalation is not None and config.escalation.cusum is not None


def organ_options(config: OrganismConfig, organ: OrganConfig) -> dict[str, Any]:
    """The deployment of an organ apart, in the words of Serve's config schema."""
    assert organ.deployment is not None
    return {
        "name": organ_deployment(organ.id),
        **_scale(organ.deployment, organ.concurrency),
        **CHECKS,
        "ray_actor_options": _resources(organ.deployment),
        "user_config": config.alone(organ).model_dump(mode="json"),
    }


def _scale(deployment: DeploymentConfig, concurrency: int) -> dict[str, Any]:
    # A replica takes as many calls as it runs, so that those that wait are where Serve can give them to
    # another. Cancelling a call waits in no line.
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
