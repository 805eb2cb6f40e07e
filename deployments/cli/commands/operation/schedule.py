"""`organism schedule`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from organism_flows.deployments.cli.output import AsJson, show


async def schedule(
    flow: Annotated[str | None, Parameter(help="The deployment's flow: `dispatch`.")] = None,
    state: Annotated[Literal["on", "off"] | None, Parameter(help="What it is to be.")] = None,
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """Show which deployments start by themselves, or turn the schedules of one on or off.

    With `organism schedule dispatch on` the queue is processed all the time. After `off` the working run
    leaves within half a minute: it claims nothing more, and ends when its tasks have ended.
    You can do the same in the Prefect UI. Neither `organism up` nor `organism deploy` changes it back.
    """
    # Importing flows points Prefect and Ray at the embedded stack, so it comes before Prefect.
    from organism_flows.flows.prefect_support.server import reaching_prefect  # isort: skip

    from organism_flows.blocks.errors import ConfigurationError

    with reaching_prefect():
        from organism_flows.flows.prefect_support.schedules import scheduled, turn

        if flow is None:
            found = await scheduled()
        elif state is None:
            raise ConfigurationError(f"{flow} is to be on or off?", f"`organism schedule {flow} on`")
        else:
            found = [await turn(flow, on=state == "on")]
    after = (
        ["what works now leaves within half a minute, once its tasks have ended"]
        if state == "off" and [one.deployment for one in found] == ["dispatch/organism"]
        else []
    )
    text = [
        f"{one.deployment:20}  {'on' if one.on else 'off':3}  {', '.join(one.schedules) or '-'}"
        for one in found
    ]
    show(
        {"schedules": [one.model_dump() for one in found]},
        as_json,
        "\n".join([*text, *after]) or "no deployments of ours",
    )
