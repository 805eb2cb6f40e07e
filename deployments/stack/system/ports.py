"""Which TCP ports of the loopback interface are free, who holds the others, which one a component gets."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection
from dataclasses import dataclass

import psutil

from organism_flows.blocks.errors import StackError

LOOPBACK = "127.0.0.1"
SCAN = 200
"""How many ports after the wanted one are tried."""
_reserved: dict[int, socket.socket] = {}


@dataclass(frozen=True)
class PortChoice:
    """A port, and the line to show when it is not the usual one."""

    port: int
    note: str = ""


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now: nobody listens there on loopback or everywhere."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: connections of a predecessor in TIME_WAIT are no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def reserve(port: int) -> bool:
    """Reserve ``port`` against other stacks that start on this machine; return False if it is not free.

    Between the choice of a port and the moment its server listens lie seconds, in which another stack would
    find it free. A reservation is an abstract Unix socket: its name is known to all users of the machine, and
    the kernel frees it when this process ends.
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
    """Who listens on ``port``: ``pid 123 (python)``, or what can be said without the right to look."""
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
    """The port for one component.

    Args:
        what: The component, for the messages: ``Prefect UI``.
        variable: The environment variable that sets the port.
        wanted: The port the user asked for, or None.
        default: The usual port.
        keep: The port it had until now, preferred to the usual one when free.
        taken: Ports given to other components a moment ago.

    Raises:
        StackError: The port the user asked for is taken.
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
    """A free port that is the same each time for the same ``seed`` unless somebody else took it.

    Drivers that hold an address reconnect after a restart. The range is below the ports the kernel gives to
    outgoing connections (32768 up) and above those Ray gives its workers (10002 to 19999).
    """
    start = sum(seed.encode()) * 7919 % 10_000
    for offset in range(10_000):
        port = 20_000 + (start + offset) % 10_000
        if port not in taken and reserve(port):
            return port
    raise StackError("no free port between 20000 and 29999", "stop some of the servers on this machine")
