"""Folders of the stack, closed to other users, and short ones for sockets."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from organism_flows.blocks.errors import StackError
from organism_flows.deployments.stack.system.processes import Account


def private_folder(path: Path, *, mode: int = 0o700, account: Account | None = None) -> Path:
    """Make ``path``, with its parents, or check that it is ours.

    Args:
        mode: Permissions it gets when it is made.
        account: Who owns it, when not we ourselves.

    Raises:
        StackError: It cannot be made, is no folder, or belongs to somebody else.
    """
    owner = account.user if account else os.geteuid()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            if account is not None:
                os.chown(path, account.user, account.group)
            path.chmod(mode)
        # Not followed in a folder everybody can write to: there a link could be somebody else's.
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) and not path.parent.stat().st_mode & stat.S_IWOTH:
            status = path.stat()
        if account is not None and status.st_uid == os.geteuid() and not any(path.iterdir()):
            # Left by a run that was killed between the two steps above.
            os.chown(path, account.user, account.group)
            status = path.stat()
    except OSError as error:
        raise StackError(
            f"cannot make {path}: {error.strerror or error}", "choose another ORGANISM_HOME"
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise StackError(f"{path} is not a folder", "move it away or choose another ORGANISM_HOME")
    if status.st_uid != owner:
        raise StackError(
            f"{path} belongs to user id {status.st_uid}, not to {owner}",
            "run as the user who made it, or choose another ORGANISM_HOME",
        )
    return path


def short_folder(stack_id: str) -> Path:
    """A folder whose path is short enough for sockets below it. It is not made here."""
    return Path(tempfile.gettempdir()) / f"organism-{os.geteuid()}-{stack_id[:8]}"
