"""Users that PostgreSQL runs as when root runs the stack: it refuses to run as root."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

import psutil

from organism_flows.blocks.errors import StackError
from organism_flows.deployments.stack.system.processes import Account

FIRST_ID, IDS = 60706, 478
"""First user id and number of ids that neither distributions nor systemd assign.

They lie below 65,536, the usual number of ids in a container.
"""


def service_account(stack_id: str, folder: Path) -> Account:
    """Return a user and group for this stack's server alone. They have no name on the machine.

    As `nobody`, the server and its data would be open to all other processes that run as `nobody`.

    Args:
        stack_id: Id of the stack. The user id follows from it, unless that is taken on the machine.
        folder: Folder of the server. If it exists, its owner is kept.

    Raises:
        StackError: No such id is free, and the machine has no user `nobody` either.
    """
    ids = range(FIRST_ID, FIRST_ID + IDS)
    with suppress(FileNotFoundError):
        owner = folder.stat().st_uid
        if owner in ids:
            return Account(owner, owner)
    start = sum(stack_id.encode()) * 7919 % IDS
    running = _ids_of_processes()
    for offset in range(IDS):
        number = ids[(start + offset) % IDS]
        if number not in running and not _has_name(number) and _is_mapped(number):
            return Account(number, number)
    return unprivileged_account()


def unprivileged_account() -> Account:
    """Return the user `nobody`, for programs that need a user with a name.

    Raises:
        StackError: The machine has no such user.
    """
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise StackError(
            "Postgres refuses to run as root and this machine has no user `nobody`",
            "run as an ordinary user, or set ORGANISM_DSN to a Postgres of your own",
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def give(tree: Path, account: Account) -> None:
    """Make ``account`` the owner of everything in ``tree``. Links are not followed."""
    for path in [tree, *tree.rglob("*")]:
        os.chown(path, account.user, account.group, follow_symlinks=False)


def first_closed_folder(path: Path, account: Account) -> Path | None:
    """Return the topmost of ``path`` and its parents that ``account`` may not enter, or `None`."""
    resolved = path.resolve()
    for folder in [*reversed(resolved.parents), resolved]:
        try:
            status = folder.stat()
        except FileNotFoundError:
            return None
        if status.st_uid == account.user:
            bit = stat.S_IXUSR
        elif status.st_gid == account.group:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not status.st_mode & bit:
            return folder
    return None


def _ids_of_processes() -> set[int]:
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found.add(process.uids().real)
    return found


def _has_name(number: int) -> bool:
    for look_up in (pwd.getpwuid, grp.getgrgid):
        with suppress(KeyError):
            look_up(number)
            return True
    return False


def _is_mapped(number: int) -> bool:
    """Return True if this user namespace has the id. An unprivileged container may have few."""
    try:
        lines = [Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid")]
    except OSError:
        return True
    return all(
        any(
            int(first) <= number < int(first) + int(count)
            for first, _, count in map(str.split, text.splitlines())
        )
        for text in lines
    )
