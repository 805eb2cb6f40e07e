"""`organism dispatch`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

from cyclopts import Parameter

from deployments.output import AsJson, show

INTERRUPTED = 130


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

    from prefect.exceptions import CancelledRun, FailedRun, ParameterTypeError

    from blocks.errors import ConfigurationError, OrganismError

    try:
        # Ray prints what it has to say of dead workers to standard output, which is for the result.
        with redirect_stdout(sys.stderr):
            summary = await flow.dispatch(
                lanes=lanes, until_empty=until_empty, max_seconds=max_seconds, batch_size=batch_size
            )
    except CancelledRun as stopped:
        show({"stopped": str(stopped)}, as_json, str(stopped))
        return INTERRUPTED
    except FailedRun as failed:
        raise OrganismError(str(failed), "look at the run's page in the Prefect UI") from None
    except ParameterTypeError as wrong:
        raise ConfigurationError(str(wrong), "see `organism dispatch --help`") from None
    text = (
        f"{summary.completed} completed, {summary.failed} dead letters, {summary.retried} retried, "
        f"{summary.released} handed back in {summary.seconds:.1f} s ({summary.tasks_per_second:g} tasks/s)"
    )
    show(summary, as_json, text)
    return 0
