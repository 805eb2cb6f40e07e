"""Running a flow in this process, with its failures as errors that say what to do."""

from __future__ import annotations

import sys
from collections.abc import Awaitable
from contextlib import redirect_stdout
from typing import TypeVar

from blocks.errors import ConfigurationError, OrganismError

T = TypeVar("T")
INTERRUPTED = 130
"""Exit code of a command whose flow was stopped."""


class Stopped(OrganismError):
    """The run was stopped in good order, by a signal or from the Prefect UI."""


async def outcome(run: Awaitable[T]) -> T:
    """What a flow called in this process returns.

    Raises:
        Stopped: It was cancelled, and drained.
        ConfigurationError: A parameter is wrong.
        OrganismError: It failed, or lost Prefect's server.
    """
    from httpx import HTTPError
    from prefect.exceptions import CancelledRun, FailedRun, ParameterTypeError

    try:
        # Ray prints what it has to say of dead workers to standard output, which is for results.
        with redirect_stdout(sys.stderr):
            return await run
    except CancelledRun as stopped:
        raise Stopped(str(stopped), "its tasks were handed back; run it again to go on") from None
    except FailedRun as failed:
        raise OrganismError(str(failed), "look at the run's page in the Prefect UI") from None
    except (HTTPError, RuntimeError) as lost:
        # How Prefect 3.8 says that its server did not answer when the run was to begin.
        if isinstance(lost, RuntimeError) and not str(lost).startswith("Failed to reach API"):
            raise
        raise OrganismError(
            f"no answer of Prefect's server: {type(lost).__name__}{f': {lost}' if str(lost) else ''}",
            "start or reach it, then run this again: what is done stays done",
        ) from None
    except ParameterTypeError as wrong:
        raise ConfigurationError(str(wrong), "see the command's --help") from None
