"""Processes of a stack are found by every mark, never mistaken, and stopped to the last one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.local_stack.stack_state import ProcessRef
from organism_flows.deployments.stack.system import processes
from organism_flows.deployments.stack.system.processes import STACK_ID, Child, Marks

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
# A worker in a process group of its own whose environment is overwritten, as Ray's agents are.
CLOBBERED = (
    "import subprocess, sys; "
    f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], env={{}}, process_group=0); {SLEEP}"
)


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[Marks]:
    for name in ("run", "data"):
        (tmp_path / name).mkdir()
    marks = Marks(f"test-{tmp_path.name}-{os.getpid()}", tmp_path / "run", tmp_path / "data")
    yield marks
    for process in marks.members():
        process.kill()


def start(marks: Marks, code: str, *, role: str = "ray", lines: int = 1) -> Child:
    """A child that has printed ``lines`` lines."""
    log = marks.run_dir.parent / f"{role}.log"
    env = {**os.environ, STACK_ID: marks.stack_id}
    child = processes.spawn(role, [sys.executable, "-c", code], env=env, log=log, cwd=marks.run_dir)

    async def wait() -> None:
        while log.read_bytes()[child.log_start :].count(b"up\n") < lines:
            assert child.exited() is None, child.last_words()
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(wait(), 20))
    return child


def stop(marks: Marks, *children: Child, role: str | None = "ray", grace: float = 5.0) -> int:
    refs = {child.role: child.ref for child in children}
    return asyncio.run(processes.stop(marks, refs, role, grace=grace))


def test_a_polite_process_ends_by_itself(marks: Marks) -> None:
    child = start(marks, SLEEP)
    assert stop(marks, child) == 0
    assert child.exited() is not None


def test_a_deaf_process_is_killed_after_its_grace(marks: Marks) -> None:
    child = start(marks, DEAF)
    assert stop(marks, child, grace=0.1) == 1
    assert marks.members() == []


def test_processes_without_our_environment_are_found_by_session_and_folder(marks: Marks) -> None:
    child = start(marks, CLOBBERED, lines=2)
    assert len(marks.members({"ray": child.ref})) == 2
    assert len(marks.members()) == 2, "the leader's environment names its session when the state is lost"
    os.kill(child.ref.pid, signal.SIGKILL)
    child.process.wait()
    assert len(marks.members({"ray": child.ref})) == 1, "the session outlives its leader"
    assert stop(marks, child) == 1
    assert marks.members({"ray": child.ref}) == []


def test_a_later_process_of_the_same_pid_is_left_alone(marks: Marks, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEP], cwd=tmp_path, stdout=subprocess.DEVNULL) as other:
        try:
            stale = ProcessRef(pid=other.pid, created=psutil.Process(other.pid).create_time() - 60)
            assert processes.find(stale) is None
            assert asyncio.run(processes.stop(marks, {"ray": stale}, "ray", grace=1.0)) == 0
            assert other.poll() is None
        finally:
            other.kill()


def test_other_roles_are_left_alone(marks: Marks) -> None:
    ray, prefect = start(marks, SLEEP), start(marks, SLEEP, role="prefect")
    stop(marks, ray, prefect)
    assert ray.exited() is not None
    assert prefect.exited() is None
    stop(marks, ray, prefect, role=None)
    assert marks.members() == []


def test_we_and_our_parents_are_never_members(marks: Marks, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from organism_flows.deployments.stack.system.processes import Marks; "
        f"sys.exit(len(Marks({marks.stack_id!r}, Path('/r'), Path('/d')).members()))"
    )
    monkeypatch.setenv(STACK_ID, marks.stack_id)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("starting\nall well\n", "all well"),
        ("FATAL:  bad\nshutting down\n", "FATAL:  bad"),
        ("PANIC: x: No space left on device\nFATAL: gave up\n", "PANIC: x: No space left on device"),
        ('Traceback:\n  File "x"\n\x1b[31mValueError: no\x1b[0m\nbye\n', "ValueError: no"),
        ("", ""),
    ],
)
def test_last_words_are_the_telling_line(tmp_path: Path, text: str, expected: str) -> None:
    log = tmp_path / "x.log"
    log.write_text("FATAL: of an earlier start\n" + text)
    assert processes.last_words(log, len("FATAL: of an earlier start\n")) == expected


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    words = "could not write to file: No space left on device"
    error = processes.failure("postgres ended", words, tmp_path / "x.log")
    assert error.what.startswith(f"no space left on the disk of {tmp_path}")
    assert str(tmp_path / "x.log") in error.next_step


def test_a_command_that_is_not_there_is_one_line(marks: Marks) -> None:
    with pytest.raises(StackError, match="cannot start ray: "):
        processes.spawn("ray", ["/no/such"], env={}, log=marks.run_dir / "x.log", cwd=marks.run_dir)


def test_sockets_others_can_reach_are_listed() -> None:
    with socket.socket() as closed, socket.socket() as open_one:
        closed.bind(("127.0.0.1", 0))
        open_one.bind(("0.0.0.0", 0))
        closed.listen()
        open_one.listen()
        exposed = processes.exposed_sockets([psutil.Process()])
        assert [line.split()[0] for line in exposed] == [f"0.0.0.0:{open_one.getsockname()[1]}"]
