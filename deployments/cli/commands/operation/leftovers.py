"""`organism leftovers`: list what an older system or a crash has left on the Ray cluster and in the table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.output import AsJson, show

SERVE_NAMESPACE = "serve"
"""Ray Serve keeps its controller, proxies and replicas there (`ray.serve._private.constants`)."""
HOLDERS_SHOWN = 20


async def leftovers(
    *,
    kill: Annotated[
        list[str] | None, Parameter(help="End these actors; each as it is listed, namespace/name.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """List named Ray actors that Serve does not manage, and running tasks that no lane holds.

    Organism Flows starts no named actor. So the listed actors belong to other programs, perhaps to the
    coordinator, dispatchers or reaper of an older system. Only actors that --kill names are ended.
    Exits with 1 if something is left.
    """
    # Importing flows points Ray at the embedded stack.
    import organism_flows.flows.dispatch  # noqa: F401  # isort: skip
    from organism_flows.blocks.errors import ConfigurationError
    from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
    from organism_flows.deployments.cli.own_queue import open_queue

    await (await RayCluster.named("default")).connect()
    actors = _actors()
    if unknown := sorted(set(kill or []) - set(actors)):
        raise ConfigurationError(
            f"no actor is called {', '.join(unknown)}", "name them as `organism leftovers` lists them"
        )
    for name in kill or []:
        _kill(name)
    actors = [name for name in actors if name not in (kill or [])]
    async with open_queue() as queue:
        held = await queue.health.unheld(limit=HOLDERS_SHOWN)
    lines = [f"killed {name}" for name in kill or []]
    lines += [f"actor {name}: end it by `organism leftovers --kill {name}`" for name in actors]
    lines += [
        f"{line.tasks} running tasks are held by {line.locked_by or 'no holder'}, which is no lane: "
        "any lane takes them back within a minute"
        for line in held
    ]
    show(
        {"killed": kill or [], "actors": actors, "tasks": [asdict(line) for line in held]},
        as_json,
        "\n".join(lines) or "nothing is left over",
    )
    return ExitCode.FAILED if actors or held else ExitCode.DONE


def _actors() -> list[str]:
    import ray

    found = ray.util.list_named_actors(all_namespaces=True)
    return sorted(
        f"{actor['namespace']}/{actor['name']}" for actor in found if actor["namespace"] != SERVE_NAMESPACE
    )


def _kill(name: str) -> None:
    import ray

    namespace, _, actor = name.partition("/")
    ray.kill(ray.get_actor(actor, namespace=namespace))
