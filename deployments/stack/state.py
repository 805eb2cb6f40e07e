"""The stack's own files: the state file, which other processes read, and the lock of `up` and `down`."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.local_stack.stack_state import STATE_FILE, ProcessRef, StackState, read_stack
from organism_flows.deployments.stack.system.processes import find, reference

LOCK_FILE = "stack.lock"


def stack_id_of(home: Path) -> str:
    """Return the id of the stack in ``home``, which every process of the stack carries.

    It follows from the folder alone, so a stack can be found and removed even if its state file is lost.
    """
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]


def known_processes(home: Path) -> dict[str, ProcessRef]:
    """Return the processes in the state file by role, or none if it is missing or broken."""
    with contextlib.suppress(StackError):
        stack = read_stack(home)
        return dict(stack.processes) if stack else {}
    return {}


def refuse_other_installation(stack: StackState | None) -> None:
    """Refuse a stack with a process that another installation of this package has started.

    That installation may have other versions, and another Python, than the processes that `up` would add.

    Args:
        stack: The state that a stack left, or `None`.

    Raises:
        StackError: There is such a process.
    """
    if stack is None:
        return
    ours = Path(sys.executable).parent
    for role, ref in stack.processes.items():
        theirs = _started_by(ref)
        if role != "postgres" and theirs is not None and theirs.parent != ours:
            raise StackError(
                f"the stack in {stack.home} runs from another installation: {role} from {theirs.parent}",
                f"stop it there: `{theirs.parent}/organism down`, then run this again",
            )


def _started_by(ref: ProcessRef) -> Path | None:
    """Return the program of a process by the path that started it, or `None` if that is not known."""
    with contextlib.suppress(psutil.Error):
        if (process := find(ref)) and (command := process.cmdline()) and os.path.isabs(command[0]):
            return Path(command[0])
    return None


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace the contents of ``path`` so that a reader sees either the old text or the new one.

    Raises:
        OSError: The file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "w") as file:
            os.fchmod(descriptor, mode)
            file.write(text)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_stack(stack: StackState) -> None:
    """Write the state file."""
    write_atomically(stack.home / STATE_FILE, stack.model_dump_json(indent=2) + "\n")


def forget_stack(home: Path) -> None:
    """Remove the state file."""
    (home / STATE_FILE).unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def turn(
    home: Path,
    command: str,
    *,
    waiting: Callable[[str], None],
    interrupt: bool = False,
    timeout: float = 300.0,
) -> AsyncIterator[None]:
    """Hold the stack's lock within the block. Wait if another process holds it.

    Args:
        home: Folder of the stack; it must exist.
        command: ``up`` or ``down``; other processes that wait show it.
        waiting: Called once, with a line to show, if another process holds the lock.
        interrupt: Ask an ``up`` that holds it to stop, as Ctrl-C would.
        timeout: Longest wait, in seconds.

    Raises:
        StackError: The lock was not free in time.
    """
    path = home / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError:
        raise StackError(
            f"{path} belongs to another user", "run as the user who ran `organism up`, or set ORGANISM_HOME"
        ) from None
    try:
        deadline = asyncio.get_running_loop().time() + timeout
        notified = False
        while True:
            try:
                # The kernel releases the lock when its holder dies, however it dies.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                owner = _holder(path)
            if owner is not None and not notified:
                notified = True
                other, ref = owner
                if interrupt and other == "up":
                    waiting(f"`organism up` (pid {ref.pid}) is starting this stack; asking it to stop")
                    if process := find(ref):
                        process.send_signal(signal.SIGTERM)
                else:
                    waiting(f"`organism {other}` (pid {ref.pid}) is at work on this stack; waiting for it")
            if asyncio.get_running_loop().time() > deadline:
                who = f"`organism {owner[0]}` (pid {owner[1].pid})" if owner else "another command"
                raise StackError(
                    f"{who} still holds {path} after {timeout:g} s", "end it, then run this again"
                )
            await asyncio.sleep(0.05)
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, json.dumps([command, *reference(os.getpid()).model_dump().values()]).encode(), 0
        )
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _holder(path: Path) -> tuple[str, ProcessRef] | None:
    with contextlib.suppress(OSError, ValueError):
        command, pid, created = json.loads(path.read_text())
        return str(command), ProcessRef(pid=pid, created=created)
    return None
