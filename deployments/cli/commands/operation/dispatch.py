"""`organism dispatch`."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.output import AsJson, show

if TYPE_CHECKING:
    from organism_flows.flows.supervision.supervisor import DispatchSummary


async def dispatch(
    *,
    lanes: Annotated[int, Parameter(help="Lanes side by side.")] = 1,
    until_empty: Annotated[bool, Parameter(negative="", help="Stop when the queue is empty.")] = False,
    max_seconds: Annotated[
        float | None, Parameter(help="Stop claiming after so many seconds; without it: never.")
    ] = None,
    batch_size: Annotated[int | None, Parameter(help="Most tasks in one call to the organism.")] = None,
    quiet: Annotated[bool, Parameter(negative="", help="Show no progress.")] = False,
    as_json: AsJson = False,
) -> int:
    """Run the dispatch flow in this process: lanes on Ray process the queue.

    Without --until-empty and --max-seconds it goes on until Ctrl-C. Ctrl-C stops claiming and gives the tasks
    in flight 20 s to end. The rest is handed back, and its attempts are not charged. A second Ctrl-C hands it
    back at once. With --until-empty, exit code 1 means that --max-seconds was over before the queue was
    empty. If `organism down` stops the stack, the command ends at once with exit code 1.
    """
    from organism_flows.blocks.local_stack.stack_state import queue_dsn, read_stack
    from organism_flows.blocks.queue import Queue
    from organism_flows.blocks.settings import load_settings

    settings = load_settings()
    dsn = queue_dsn(settings).get_secret_value()
    async with AsyncExitStack() as open_parts:
        queue = await open_parts.enter_async_context(
            Queue(dsn, connections=1, application_name="organism-progress")
        )
        if not quiet:
            from organism_flows.deployments.cli.dispatch_progress import shown

            # Before Prefect is imported: it logs to what standard error is on import.
            await open_parts.enter_async_context(shown(queue))
        # Importing flows points Prefect and Ray at the embedded stack, so it comes before both.
        from organism_flows.blocks.ray_connection import disconnect
        from organism_flows.flows.supervision.lane_processes import prepare_ahead  # isort: skip

        stack = read_stack(settings.home)
        if stack is not None and os.environ.get("RAY_ADDRESS") != stack.ray_address:
            stack = None  # its Ray is not the one that this run uses
        if stack is not None:
            await prepare_ahead(stack.ray_address, lanes)
        import organism_flows.flows.dispatch as flow  # isort: skip

        from organism_flows.blocks.errors import RunStopped
        from organism_flows.deployments.cli.flow_runs import BEGIN_S, begun_within, leave_with, outcome
        from organism_flows.flows.prefect_support.server import prefect_api
        from organism_flows.flows.prefect_support.states import BEGUN

        # Check before the flow is called: Prefect would start a server of its own to record the failure.
        prefect_api()
        if stack is not None:
            leave_with(stack, as_json)
        stopped = ""
        try:
            begun = asyncio.Event()
            BEGUN.set(begun)
            run = flow.dispatch(
                lanes=lanes, until_empty=until_empty, max_seconds=max_seconds, batch_size=batch_size
            )
            summary = await outcome(begun_within(run, begun, BEGIN_S))
        except RunStopped as error:
            stopped = error.what
        finally:
            disconnect()
        left = None
        if not stopped and until_empty and max_seconds is not None and summary.seconds >= max_seconds:
            left = await queue.reader.remaining()
    if stopped:
        show({"stopped": stopped}, as_json, stopped)
        return ExitCode.INTERRUPTED
    return _report(summary, left, as_json)


def _report(summary: DispatchSummary, left: int | None, as_json: bool) -> int:
    """Show the result, and return the exit code: 1 if tasks are left because the time was over."""
    text = (
        f"{summary.completed} completed, {summary.failed} dead letters, {summary.retried} retried, "
        f"{summary.released} handed back in {summary.seconds:.1f} s ({summary.tasks_per_second:g} tasks/s)"
    )
    result: dict[str, Any] = summary.model_dump(mode="json")
    if left:
        stopped = f"stopped after {summary.seconds:.0f} s with about {left:,} tasks left"
        text += f"\n{stopped}: --max-seconds was over before the queue was empty"
        result |= {"stopped_early": stopped, "left": left}
    show(result, as_json, text)
    return ExitCode.FAILED if left else ExitCode.DONE
