"""TCP ports on loopback: which are free, which process holds the others, which one a component gets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection
from dataclasses import dataclass

import psutil

from organism_flows.blocks.errors import StackError

LOOPBACK = "127.0.0.1"
SCAN = 200
"""Number of ports from the usual one on that are tried."""
_reserved: dict[int, socket.socket] = {}


@dataclass(frozen=True)
class PortChoice:
    """A port, and the line to show if it is not the usual one."""

    port: int
    note: str = ""


def is_free(port: int) -> bool:
    """Return True if a server could listen on ``port`` on loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: old connections in TIME_WAIT are no obstacle, but a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def reserve(port: int) -> bool:
    """Reserve ``port`` against other stacks that start on this machine. Return False if it is not free.

    Seconds pass between the choice of a port and the moment when its server listens. In that time another
    stack would find the port free. A reservation is an abstract Unix socket: all users of the machine see its
    name, and the kernel frees it when this process ends.
    """
    if port in _reserved:
        return is_free(port)
    reservation = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        reservation.bind(f"\0organism-flows-port-{port}")
    except OSError:
        reservation.close()
        return False
    if not is_free(port):
        reservation.close()
        return False
    _reserved[port] = reservation
    return True


def release() -> None:
    """End the reservations of this process."""
    while _reserved:
        _reserved.popitem()[1].close()


def holder(port: int) -> str:
    """Return which process listens on ``port``, such as ``pid 123 (python)``.

    Without the permission to see it, return what it may be.
    """
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                try:
                    return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
                except psutil.Error:
                    return f"pid {connection.pid}"
    return "another stack that is starting, or a process of another user"


def choose(
    what: str,
    variable: str,
    wanted: int | None,
    default: int,
    *,
    keep: int | None = None,
    taken: Collection[int] = (),
) -> PortChoice:
    """Return the port for one component, and reserve it.

    Args:
        what: Name of the component in messages, such as ``Prefect UI``.
        variable: The environment variable that sets the port.
        wanted: The port that the user asked for, or `None`.
        default: The usual port.
        keep: The port of the last start. If it is free, it is preferred to the usual one.
        taken: Ports that were just given to other components.

    Raises:
        StackError: The port that the user asked for is taken, or no port is free.
    """
    if wanted is not None:
        if wanted in taken:
            raise StackError(f"port {wanted} is asked for twice", f"set {variable} to another port")
        if not reserve(wanted):
            raise StackError(
                f"port {wanted} for the {what} ({variable}) is taken by {holder(wanted)}",
                f"stop it, or set {variable} to another port, or unset it to get a free one",
            )
        return PortChoice(wanted)
    if keep is not None and keep not in taken and reserve(keep):
        return PortChoice(keep)
    if default not in taken and reserve(default):
        return PortChoice(default)
    for port in range(default + 1, default + SCAN):
        if port not in taken and reserve(port):
            return PortChoice(port, f"port {default} is taken by {holder(default)}; {what} on {port}")
    raise StackError(f"no free port between {default} and {default + SCAN}", f"set {variable} to a free port")


def steady(seed: str, *, taken: Collection[int] = ()) -> int:
    """Return a free port, the same each time for the same ``seed`` unless another program took it.

    So drivers that hold an address can reconnect after a restart. The range is below the ports that the
    kernel gives to outgoing connections (from 32768) and above those that Ray gives to its workers (10002 to
    19999).
    """
    start = sum(seed.encode()) * 7919 % 10_000
    for offset in range(10_000):
        port = 20_000 + (start + offset) % 10_000
        if port not in taken and reserve(port):
            return port
    raise StackError("no free port between 20000 and 29999", "stop some of the servers on this machine")
