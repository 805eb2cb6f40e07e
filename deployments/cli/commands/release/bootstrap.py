"""`organism bootstrap`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from organism_flows.deployments.cli.options import ConfigFile, Now, WhenIdle, when_replaced
from organism_flows.deployments.cli.output import AsJson, show


async def bootstrap(
    *,
    config: ConfigFile = None,
    replicas: Annotated[int, Parameter(help="Replicas of the organism.")] = 1,
    canary: Annotated[bool, Parameter(help="Send a task through everything.")] = True,
    postgres_seconds: Annotated[float, Parameter(help="How long Postgres may take to come up.")] = 120.0,
    when_idle: WhenIdle = False,
    now: Now = False,
    as_json: AsJson = False,
) -> int:
    """Run the bootstrap flow in this process: migrate Postgres, deploy the organism and set up Prefect.

    It is for services of your own, which it does not start. `organism up` starts all of them on this machine.
    It is safe to run again at any time, and twice at the same time: what is right is not changed. Before the
    organism is replaced, it prints why, what runs there and what it costs.
    """
    # Importing flows points Prefect and Ray at the embedded stack, so it comes before Prefect.
    import organism_flows.flows.bootstrap as flow  # isort: skip

    from organism_flows.blocks.errors import RunStopped
    from organism_flows.deployments.cli.exit_codes import ExitCode
    from organism_flows.deployments.cli.flow_runs import outcome
    from organism_flows.flows.prefect_support.server import prefect_api

    # Check before the flow is called: Prefect would start a server of its own to record the failure.
    prefect_api()
    try:
        done = await outcome(
            flow.bootstrap(
                config=str(config) if config else None,
                replicas=replicas,
                canary=canary,
                postgres_seconds=postgres_seconds,
                when=when_replaced(when_idle, now),
            )
        )
    except RunStopped as stopped:
        show({"stopped": stopped.what}, as_json, stopped.what)
        return ExitCode.INTERRUPTED
    lines = [f"{'changed' if step.changed else 'right':7}  {step.step}: {step.found}" for step in done.steps]
    show(done, as_json, "\n".join(lines))
    return ExitCode.DONE
