"""Runs a flow in this process, and turns its failures into errors that say what to do."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Coroutine
from contextlib import redirect_stdout
from typing import Any, TypeVar

from organism_flows.blocks.errors import (
    ConfigurationError,
    OrganismError,
    PrefectUnavailable,
    RunStopped,
    StackError,
)
from organism_flows.blocks.local_stack.stack_state import StackState, read_stack
from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.output import show_error

T = TypeVar("T")
STACK_POLL_S = 1.0
SHOW_CURSOR = "\r\x1b[K\x1b[?25h"
"""Escape sequence that clears the progress line and shows the cursor, which that line hides."""
BEGIN_S = 60.0
"""Longest time until a run begins, in seconds. It takes 1 to 3 if Prefect's server is well."""
GIVE_UP_S = 5.0
"""Time for a run that is given up to end, in seconds."""


def leave_with(stack: StackState, as_json: bool) -> None:
    """End this process with one line and exit code 1 as soon as `organism down` has stopped ``stack``.

    A thread does this, without cleaning up. By then the flow's event loop is blocked in a call of Ray, which
    ends the process after 60 s with a message of its own (2.60). The services to report to are gone.
    """

    def watch() -> None:
        while _is_there(stack):
            time.sleep(STACK_POLL_S)
        # The call of the flow redirects standard output.
        sys.stdout = sys.__stdout__
        if sys.stderr.isatty():
            print(SHOW_CURSOR, end="", file=sys.stderr)
        show_error(
            f"`organism down` has stopped the stack in {stack.home}, and this run with it",
            "`organism up`, then run this again; nothing is lost: what ran begins again",
            as_json,
        )
        os._exit(ExitCode.FAILED)

    threading.Thread(target=watch, name="stack-watch", daemon=True).start()


def _is_there(stack: StackState) -> bool:
    try:
        found = read_stack(stack.home)
    except StackError:
        return True  # being written
    return found is not None and found.ray_address == stack.ray_address


async def begun_within(run: Coroutine[Any, Any, T], begun: asyncio.Event, seconds: float) -> T:
    """Return what ``run`` returns, if it begins in time.

    Prefect's client makes a few requests to record one run. Each may take 60 s, and is tried six times
    (3.8.8).

    Args:
        run: The call of a flow.
        begun: Event that the flow sets when it has begun.
        seconds: Longest time until it begins.

    Raises:
        OrganismError: The run did not begin in time, and was given up.
    """
    task = asyncio.ensure_future(run)
    beginning = asyncio.ensure_future(begun.wait())
    try:
        await asyncio.wait({task, beginning}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if task.done() or begun.is_set():
            return await task
    finally:
        beginning.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=GIVE_UP_S)
    raise OrganismError(
        f"Prefect's server is too slow: the run has not begun within {seconds:g} s",
        "see `organism status` and its log, then run this again; no task was touched",
    )


async def outcome(run: Awaitable[T]) -> T:
    """Return what a flow called in this process returns.

    Raises:
        RunStopped: The run was cancelled, and has handed back its tasks.
        ConfigurationError: A parameter is wrong.
        OrganismError: The run failed.
        PrefectUnavailable: The run lost the Prefect server.
    """
    from httpx import HTTPError
    from prefect.exceptions import CancelledRun, FailedRun, ParameterTypeError

    from organism_flows.flows.prefect_support.server import unavailable

    try:
        # Ray prints messages about dead workers to standard output, which is for results.
        with redirect_stdout(sys.stderr):
            return await run
    except CancelledRun as stopped:
        raise RunStopped(str(stopped), "its tasks were handed back; run it again to go on") from None
    except FailedRun as failed:
        raise OrganismError(str(failed), "see the run's page in the Prefect UI") from None
    except (HTTPError, RuntimeError) as lost:
        # With these errors Prefect 3.8 reports that its server did not answer when the run was to begin.
        if isinstance(lost, RuntimeError) and not str(lost).startswith("Failed to reach API"):
            raise
        raise PrefectUnavailable(
            unavailable(lost).what, "start or reach it, then run this again: what is done stays done"
        ) from None
    except ParameterTypeError as wrong:
        raise ConfigurationError(str(wrong), "see the command's --help") from None
