"""The exit codes of `organism`, in one table. docs/reference/cli.md shows it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Meaning of a command's exit code."""

    DONE = 0
    FAILED = 1
    """An `OrganismError`, a full disk, or a failure of Postgres that passes."""
    DEGRADED = 1
    """`verify`: no check failed, and the result of one is degraded."""
    USAGE = 2
    """The command line is wrong."""
    CHECK_FAILED = 2
    """`verify`: a check failed."""
    DEFECT = 70
    """Any other error: a defect of this project."""
    INTERRUPTED = 130
    """SIGINT, or a flow run that was stopped. Another signal gives 128 plus its number: 143 is SIGTERM."""


OF_VERIFY = {"ok": ExitCode.DONE, "degraded": ExitCode.DEGRADED, "failed": ExitCode.CHECK_FAILED}
"""Exit code of `verify` by the worst status of its findings."""
