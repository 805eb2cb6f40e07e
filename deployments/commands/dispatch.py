"""`organism dispatch`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from deployments.output import AsJson, show


async def dispatch(
    *,
    lanes: Annotated[int, Parameter(help="Lanes side by side.")] = 1,
    until_empty: Annotated[bool, Parameter(negative="", help="Stop when the queue is empty.")] = False,
    max_seconds: Annotated[float, Parameter(help="Stop claiming after so many seconds.")] = 600.0,
    batch_size: Annotated[int | None, Parameter(help="Most tasks a claim takes.")] = None,
    as_json: AsJson = False,
) -> int:
    """Run the dispatch flow here: lanes on Ray work the queue off.

    Ctrl-C stops claiming, lets what is in flight finish for 20 s, and hands the rest back.
    """
    # Importing flows points Prefect and Ray at the embedded stack, so it comes before Prefect.
    import flows.dispatch as flow  # isort: skip

    from prefect.settings import PREFECT_API_URL

    from blocks.errors import ConfigurationError
    from deployments.flow_runs import INTERRUPTED, Stopped, outcome

    if not PREFECT_API_URL.value():
        # Before the flow is called: Prefect would start a server of its own to record that it fails.
        raise ConfigurationError(
            "no Prefect server is configured and no embedded stack is up",
            "run `organism up`, or set PREFECT_API_URL",
        )
    try:
        summary = await outcome(
            flow.dispatch(
                lanes=lanes, until_empty=until_empty, max_seconds=max_seconds, batch_size=batch_size
            )
        )
    except Stopped as stopped:
        show({"stopped": stopped.what}, as_json, stopped.what)
        return INTERRUPTED
    text = (
        f"{summary.completed} completed, {summary.failed} dead letters, {summary.retried} retried, "
        f"{summary.released} handed back in {summary.seconds:.1f} s ({summary.tasks_per_second:g} tasks/s)"
    )
    show(summary, as_json, text)
    return 0
