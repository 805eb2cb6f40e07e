"""Private folders of the stack, and short folders for sockets."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from organism_flows.blocks.errors import StackError
from organism_flows.deployments.stack.system.processes import Account


def private_folder(path: Path, *, mode: int = 0o700, account: Account | None = None) -> Path:
    """Create the folder ``path`` with its parents, or check that it is ours, and return it.

    Args:
        path: The folder.
        mode: Permissions of a new folder.
        account: Owner of the folder; `None` for our own user.

    Raises:
        StackError: It cannot be created, is no folder, or belongs to another user.
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
        # Do not follow a link in a folder that all users can write to: another user could have made it.
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode) and not path.parent.stat().st_mode & stat.S_IWOTH:
            status = path.stat()
        if account is not None and status.st_uid == os.geteuid() and not any(path.iterdir()):
            # A run that was killed between the two steps above left it.
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
    """Return a folder whose path is short enough for sockets below it. The folder is not created."""
    return Path(tempfile.gettempdir()) / f"organism-{os.geteuid()}-{stack_id[:8]}"
