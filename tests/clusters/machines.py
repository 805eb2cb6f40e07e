"""Machines of a test: each has a network, a /tmp, a /dev/shm, processes and a host name of its own.

They are Linux namespaces on a bridge, which needs root. Killing one kills every process on it at once, as a
power cut would. Of the disk they share all but /tmp, as if one image were on each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNSHARE = ("unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
BOOT_S = 10.0
"""Most seconds until the namespaces of a machine are made."""
FOREIGN = ("ORGANISM_", "RAY_", "PREFECT_", "PG", "VIRTUAL_ENV")
"""Variables of the tests' own process that no machine inherits."""

_networks = count()


def possible() -> str | None:
    """Why machines cannot be made here; None: they can."""
    if os.geteuid() != 0:
        return "namespaces and bridges need root"
    for tool in ("ip", "unshare", "nsenter"):
        if shutil.which(tool) is None:
            return f"there is no {tool}"
    return None


class Network:
    """A bridge, on which this process has the address ending in 254."""

    def __init__(self, number: int) -> None:
        self.bridge = f"orgbr{number}"
        self.prefix = f"10.{77 + number % 100}.{number // 100}"
        self.machines: list[Machine] = []

    def address(self, last: int) -> str:
        return f"{self.prefix}.{last}"

    def add(self, name: str, last: int) -> Machine:
        """A new machine, up and connected."""
        machine = Machine(self, name, last)
        self.machines.append(machine)
        return machine


@contextmanager
def network() -> Iterator[Network]:
    """A network whose machines are gone with everything on them afterwards."""
    # The kernel takes the devices of a killed machine away some time later.
    net = Network(os.getpid() % 2000 * 10 + next(_networks) % 10)
    _run("ip", "link", "add", net.bridge, "type", "bridge")
    try:
        _run("ip", "address", "add", f"{net.address(254)}/24", "dev", net.bridge)
        _run("ip", "link", "set", net.bridge, "up")
        yield net
    finally:
        for machine in net.machines:
            machine.kill()
        _run("ip", "link", "del", net.bridge)


class Machine:
    """One machine; its first process does nothing but be there."""

    def __init__(self, net: Network, name: str, last: int) -> None:
        self.name, self.address = name, net.address(last)
        self._env: dict[str, str] = {n: v for n, v in os.environ.items() if not n.startswith(FOREIGN)} | {
            "PYTHONPATH": str(ROOT),
            "HOME": "/tmp",
            "TMPDIR": "/tmp",
            "DO_NOT_TRACK": "1",
        }
        boot = (
            f"mount -t tmpfs tmpfs /tmp && chmod 1777 /tmp && mount -t tmpfs tmpfs /dev/shm && "
            f"hostname {name} && echo up && exec sleep infinity"
        )
        self._unshare = subprocess.Popen(
            [*UNSHARE, "sh", "-c", boot],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._unshare.stdout is not None
        assert self._unshare.stdout.readline() == "up\n"
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self._init = int(children.read_text().split()[0])
        outer = f"{net.bridge}-{last}"
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", str(self._init))
        _run("ip", "link", "set", outer, "master", net.bridge, "up")
        for command in (
            ["ip", "link", "set", "lo", "up"],
            ["ip", "address", "add", f"{self.address}/24", "dev", "eth0"],
            ["ip", "link", "set", "eth0", "up"],
            ["ip", "route", "add", "default", "via", net.address(254)],
        ):
            _run(*self._enter, *command)

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self._init), "--net", "--mount", "--uts", "--pid", "--"]

    def start(
        self, *command: str, log: Path | None = None, cwd: str = "/tmp", env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start ``command`` here, with ``env`` as well; its output goes to ``log``, or can be read."""
        into = log.open("ab") if log else None
        inner = ["sh", "-c", 'cd "$0" && exec "$@"', cwd, *command]
        try:
            return subprocess.Popen(
                [*self._enter, *inner],
                env={**self._env, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=into or subprocess.PIPE,
                stderr=subprocess.STDOUT if log else subprocess.PIPE,
                text=True,
            )
        finally:
            if into:
                into.close()

    def run(
        self, *command: str, patience: float = 600, cwd: str = "/tmp", env: Mapping[str, str] | None = None
    ) -> tuple[int, str, str]:
        """Run ``command`` here; its code, output and errors."""
        process = self.start(*command, cwd=cwd, env=env)
        try:
            out, err = process.communicate(timeout=patience)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return process.returncode, out, err

    def write(self, path: str, text: str) -> None:
        """Make a file that only this machine has."""
        file = Path(f"/proc/{self._init}/root{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def kill(self) -> None:
        """Cut the power."""
        # Killing its first process, the kernel kills all others.
        self._unshare.kill()
        self._unshare.wait()
        deadline = time.monotonic() + BOOT_S
        while Path(f"/proc/{self._init}").exists() and time.monotonic() < deadline:
            time.sleep(0.02)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
