"""Child processes of the embedded stack: started in sessions of their own, found again, and stopped.

Three marks identify a process of a stack, because no single one survives everything that Ray and Postgres do:

* ``ORGANISM_STACK_ID`` in its environment. Processes that change their title overwrite it: Ray's dashboard
  and agents, and every Postgres process.
* Its session, begun by a process that we started, together with the stack's working folder. Ray's workers
  change their process group but never their session.
* For Postgres, whose processes each begin a session, the data folder as the working folder.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.local_stack.stack_state import ProcessRef

STACK_ID = "ORGANISM_STACK_ID"
STACK_ROLE = "ORGANISM_STACK_ROLE"
LOG_LIMIT = 20 * 1024 * 1024
POLL = 0.03
"""Time between two checks of a process that should end, in seconds."""

CAUSES = re.compile(
    r"FATAL|PANIC|\bERROR\b|[A-Za-z]Error\b|Exception\b|No space left|cannot |could not |already in use",
)
NOISE = re.compile(r"^\s*(File \"|Traceback|\^+\s*$|During handling|The above exception)")
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class Account:
    """User and group of a child process that does not run as our own user."""

    user: int
    group: int


@dataclass
class Child:
    """A process that we started, whose output goes to a log file."""

    role: str
    process: subprocess.Popen[bytes]
    ref: ProcessRef
    log: Path
    log_start: int
    """Offset in the log at which this process's output begins, in bytes."""

    def exited(self) -> int | None:
        """Return the exit code, or `None` while the process runs."""
        return self.process.poll()

    def last_words(self) -> str:
        """Return the most useful of the last lines that it wrote."""
        return last_words(self.log, self.log_start)

    def died(self) -> StackError:
        """Return the error for a process that ended while we waited for it."""
        code = self.process.poll()
        how = (
            f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with code {code}"
        )
        return failure(f"{self.role} {how} while starting", self.last_words(), self.log)


def failure(what: str, words: str, log: Path, *folders: Path) -> StackError:
    """Return an error about a component, with its last line and its log. A full disk is named.

    Args:
        what: What failed.
        words: Last line of the component's output.
        log: Its log.
        folders: Other folders that it writes to.
    """
    if "No space left on device" in words or "DiskFull" in words:
        full = min((log.parent, *folders), key=lambda folder: shutil.disk_usage(folder).free)
        return StackError(
            f"no space left on the disk of {full}: {words}",
            f"free some space, then run `organism up`; log: {log}",
        )
    return StackError(f"{what}: {words}" if words else what, f"read {log}")


def last_words(log: Path, start: int = 0) -> str:
    """Return the last line of ``log`` after ``start`` that names a problem, or else the last line.

    Colours are removed.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 64 * 1024))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in ANSI.sub("", text).splitlines()]
    lines = [line for line in lines if line and not NOISE.match(line)]
    causes = [line for line in lines if CAUSES.search(line)]
    full = [line for line in causes if "No space left" in line]
    chosen = (full or causes or lines or [""])[-1]
    return chosen[:300]


def spawn(
    role: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    log: Path,
    cwd: Path,
    account: Account | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Child:
    """Start ``command`` in a session of its own, so that a Ctrl-C on our terminal does not reach it.

    Raises:
        StackError: The command cannot be started.
    """
    with suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as output:
        start = output.tell()
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**env, STACK_ROLE: role},
                cwd=cwd,
                umask=0o077,
                user=account.user if account else None,
                group=account.group if account else None,
                extra_groups=[] if account else None,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise StackError(f"cannot start {role}: {error}", f"check {command[0]}") from None
    with suppress(psutil.Error):
        return Child(role, process, reference(process.pid), log, start)
    return Child(role, process, ProcessRef(pid=process.pid, created=time.time()), log, start)


def reference(pid: int) -> ProcessRef:
    """Return a reference to the process that has ``pid`` now."""
    return ProcessRef(pid=pid, created=psutil.Process(pid).create_time())


def find(ref: ProcessRef) -> psutil.Process | None:
    """Return the process of ``ref`` if it still runs, and never a later process with the same pid."""
    with suppress(psutil.Error):
        process = psutil.Process(ref.pid)
        # Create times are counted in clock ticks, of a hundredth of a second.
        if abs(process.create_time() - ref.created) < 0.05 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


@dataclass(frozen=True)
class Marks:
    """Marks by which the processes of one stack are recognized; the module's docstring explains them."""

    stack_id: str
    run_dir: Path
    data_dir: Path

    def members(
        self, refs: Mapping[str, ProcessRef] | None = None, roles: Iterable[str] | None = None
    ) -> list[psutil.Process]:
        """Return every live process of the stack, except ourselves and our parents.

        Args:
            refs: The processes that we started, by role.
            roles: Only processes of these roles; `None` for all.
        """
        wanted = None if roles is None else set(roles)
        sessions: dict[int, str] = {ref.pid: role for role, ref in (refs or {}).items() if _same_or_gone(ref)}
        undecided: list[psutil.Process] = []
        found: list[psutil.Process] = []
        ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
        for process in psutil.process_iter():
            if process.pid in ours:
                continue
            with suppress(psutil.Error, OSError):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                environment = process.environ()
                if environment.get(STACK_ID) == self.stack_id:
                    role = environment.get(STACK_ROLE, "")
                    sessions.setdefault(os.getsid(process.pid), role)
                    if wanted is None or role in wanted:
                        found.append(process)
                elif "PATH" not in environment:
                    undecided.append(process)
        for process in undecided:
            with suppress(psutil.Error, OSError):
                cwd = Path(process.cwd())
                role = ""
                if cwd == self.data_dir:
                    role = "postgres"
                elif cwd == self.run_dir:
                    role = sessions.get(os.getsid(process.pid), "")
                if role and (wanted is None or role in wanted):
                    found.append(process)
        return found


def _same_or_gone(ref: ProcessRef) -> bool:
    # While any process is left in a session, the kernel does not reuse the pid of its leader.
    with suppress(psutil.Error):
        return bool(abs(psutil.Process(ref.pid).create_time() - ref.created) < 0.05)
    return True


async def stop(
    marks: Marks,
    refs: Mapping[str, ProcessRef],
    role: str | None,
    *,
    first: signal.Signals = signal.SIGTERM,
    grace: float,
    limit: float = 10.0,
) -> int:
    """Stop the processes of ``role``: send a signal to the one that we started, then SIGKILL to the rest.

    Args:
        marks: Marks of the stack.
        refs: The processes that we started, by role.
        role: Role of the processes; `None` for every process of the stack.
        first: The first signal.
        grace: Time for the process that we started to end by itself, in seconds.
        limit: Time for the rest to end after SIGKILL, in seconds.

    Returns:
        The number of processes that had to be killed.

    Raises:
        StackError: Some processes still run. The message names them.
    """
    roles = None if role is None else [role]
    leader = find(refs[role]) if role is not None and role in refs else None
    if leader is None and role is not None:
        # The state file does not have it: `up` was killed before it could write it.
        leader = next((p for p in marks.members(refs, roles) if _is_session_leader(p)), None)
    if leader is not None:
        with suppress(psutil.Error):
            leader.send_signal(first)
            await gone([leader], grace)
    killed: set[int] = set()
    deadline = time.monotonic() + limit
    while left := marks.members(refs, roles):
        for process in left:
            with suppress(psutil.Error):
                process.kill()
                killed.add(process.pid)
        await gone(left, 0.5)
        if time.monotonic() > deadline:
            pids = ", ".join(str(process.pid) for process in left)
            raise StackError(
                f"processes of {role or 'the stack'} cannot be stopped: pid {pids}",
                "run `organism down` as the user who ran `organism up`",
            )
    return len(killed)


def _is_session_leader(process: psutil.Process) -> bool:
    with suppress(OSError):
        return bool(os.getsid(process.pid) == process.pid)
    return False


async def gone(processes: Sequence[psutil.Process], timeout: float) -> bool:
    """Wait until none of ``processes`` runs, and return True, or False after ``timeout`` seconds.

    Children of ours are reaped.
    """
    deadline = time.monotonic() + timeout
    while True:
        _, alive = psutil.wait_procs(list(processes), timeout=0)
        if not [p for p in alive if _runs(p)]:
            return True
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL)


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def listens(pid: int, port: int) -> bool:
    """Return True if process ``pid`` or a descendant of it listens on TCP ``port``."""
    with suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            with suppress(psutil.Error):
                for socket in process.net_connections("tcp"):
                    if socket.status == psutil.CONN_LISTEN and socket.laddr.port == port:
                        return True
    return False


def exposed_sockets(processes: Iterable[psutil.Process]) -> list[str]:
    """Return listening TCP sockets of ``processes`` that other machines could reach.

    Each is a text such as ``0.0.0.0:8000 (pid 12, python)``.
    """
    exposed = []
    for process in processes:
        with suppress(psutil.Error, OSError):
            for connection in process.net_connections("tcp"):
                if connection.status != psutil.CONN_LISTEN:
                    continue
                address = connection.laddr.ip
                if not address.removeprefix("::ffff:").startswith("127.") and address != "::1":
                    exposed.append(f"{address}:{connection.laddr.port} (pid {process.pid}, {process.name()})")
    return sorted(exposed)
