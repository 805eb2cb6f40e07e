"""Which port a component gets, and what is said when it is not the usual one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from organism_flows.blocks.errors import StackError
from organism_flows.deployments.stack.system import ports


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::"])
def listener(request: pytest.FixtureRequest) -> Iterator[int]:
    """A port somebody listens on."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        try:
            server.bind((request.param, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        server.listen()
        yield server.getsockname()[1]


def test_a_taken_port_is_replaced_by_the_next_free_one_and_named(listener: int) -> None:
    choice = ports.choose("Prefect UI", "ORGANISM_PREFECT_PORT", None, listener)
    assert choice.port > listener
    assert ports.is_free(choice.port)
    holder = f"pid {os.getpid()} ("
    assert choice.note.startswith(f"port {listener} is taken by {holder}")
    assert choice.note.endswith(f"Prefect UI on {choice.port}")


def test_a_port_the_user_asked_for_is_never_replaced(listener: int) -> None:
    with pytest.raises(StackError) as caught:
        ports.choose("Prefect UI", "ORGANISM_PREFECT_PORT", listener, 4200)
    assert f"port {listener} for the Prefect UI (ORGANISM_PREFECT_PORT)" in caught.value.what
    assert f"pid {os.getpid()}" in caught.value.what
    assert "ORGANISM_PREFECT_PORT" in caught.value.next_step


def test_the_same_port_asked_for_twice_is_refused() -> None:
    with pytest.raises(StackError, match="asked for twice"):
        ports.choose("x", "ORGANISM_HTTP_PORT", 4999, 8000, taken={4999})


def test_the_last_port_is_preferred_to_the_usual_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        last = probe.getsockname()[1]
    assert ports.choose("x", "V", None, 8000, keep=last) == ports.PortChoice(last)


def test_a_port_in_time_wait_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()  # Closed here first, so it is this side that waits.
    assert ports.is_free(port)


def test_steady_ports_are_the_same_each_time_and_outside_the_ranges_of_others() -> None:
    first = ports.steady("some stack")
    assert first == ports.steady("some stack")
    assert 20_000 <= first < 30_000
    assert ports.steady("some stack", taken={first}) != first


def test_two_stacks_that_start_at_once_get_different_ports(listener: int) -> None:
    choose = (
        "import sys; from organism_flows.deployments.stack.system import ports; "
        f"print(ports.choose('x', 'V', None, {listener}).port, flush=True); sys.stdin.read()"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", choose], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        chosen = [int(process.stdout.readline()) for process in both if process.stdout]
        assert len({listener, *chosen}) == 3
        with pytest.raises(StackError, match="another stack that is starting"):
            ports.choose("x", "V", chosen[0], listener)
    finally:
        for process in both:
            process.communicate()
    assert ports.choose("x", "V", chosen[0], listener) == ports.PortChoice(chosen[0]), "free when it ended"
    ports.release()
