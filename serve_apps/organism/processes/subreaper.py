"""The parent of a worker process: it ends when the replica ends, and kills all that the handler has started.

A process group is not enough: a program that a handler starts in a session of its own leaves the group, and
its parent may be gone by then. The kernel gives such an orphan to the nearest subreaper among its ancestors
(Linux, ``man 2 PR_SET_CHILD_SUBREAPER``), which is this process.

It is a grandchild of the replica. Ray kills the direct children of a Ray worker that exits
(``RAY_kill_child_processes_on_worker_exit``). If this process were one, nothing would be left to kill the
rest. The process between them waits, and exits with the status of the worker process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import sys
import time
from typing import NoReturn

KILL_S = 5.0
"""Longest wait for killed processes to be gone, in seconds. One that waits for a dead disk never goes."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def main() -> None:
    """Serve as a worker process, below a subreaper that ends everything when the lifeline closes.

    The arguments are two file descriptors, and the organ's id, which is there to be seen in lists of
    processes. The descriptors are those of the worker's connection and of the lifeline, a pipe that is never
    written to. Neither Ray nor pydantic is imported before the processes fork.
    """
    connection_fd, lifeline_fd = map(int, sys.argv[1:3])
    sys.argv[1:] = []
    for fd in (connection_fd, lifeline_fd):
        os.set_inheritable(fd, False)  # otherwise programs that the handler starts would keep them open
    if middle := os.fork():
        os.close(connection_fd)
        os.close(lifeline_fd)
        _exit_alike(os.waitpid(middle, 0)[1])
    os.setpgid(0, 0)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if worker := os.fork():
        os.close(connection_fd)
        _exit_alike(_wait(worker, lifeline_fd))
    os.close(lifeline_fd)
    os.setpgid(0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    from organism_flows.serve_apps.organism.processes.worker_main import serve

    serve(connection_fd)


def _wait(worker: int, lifeline_fd: int) -> int:
    """Wait until ``worker`` ends or the lifeline closes, kill what is left, and return its exit status."""
    woken_fd, wakes_fd = os.pipe()
    os.set_blocking(wakes_fd, False)
    signal.set_wakeup_fd(wakes_fd, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the stack handles Ctrl-C
    events = select.poll()
    events.register(woken_fd, select.POLLIN)
    events.register(lifeline_fd, select.POLLIN)
    while (status := _reap(worker)) is None:
        if any(fd == lifeline_fd for fd, _ in events.poll()):
            break
        os.read(woken_fd, 4096)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(worker, signal.SIGKILL)
    return _kill_descendants(worker, status)


def _reap(worker: int) -> int | None:
    """Reap every child that has ended, and return the status of ``worker`` if it is among them."""
    found = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == worker:
                found = ended[1]
    return found


def _kill_descendants(worker: int, status: int | None) -> int:
    """Kill all processes below this one until none is left, and return the status of ``worker``.

    A process that is killed may have started others before.
    """
    import psutil

    until = time.monotonic() + KILL_S
    this = psutil.Process()
    while (left := this.children(recursive=True)) and time.monotonic() < until:
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.002)
        if (found := _reap(worker)) is not None:
            status = found
    return signal.SIGKILL if status is None else status


def _exit_alike(status: int) -> NoReturn:
    """End in the same way as a process with ``status`` did."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # it has left its own core file, if any
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
