"""Handlers in processes of their own: everything they can do, with neighbours that complete."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psutil
import pytest

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.serve_apps.organism.manager import OrganismManager
from organism_flows.serve_apps.organism.processes import pool as agents_module
from tests.support.organism.held_timeouts import HeldTimeouts
from tests.support.organism.helpers import Result, batch, cancel_claims, in_flight, organ, organism, run
from tests.support.stack import until

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[4]
MODULE = "tests.support.organism.crashes"


def apart(name: str, handler: str, **more: Any) -> dict[str, Any]:
    """Configuration of an organ whose handler runs in processes."""
    path = handler if ":" in handler else f"{MODULE}:{handler}"
    return organ(name, path, processes=True, **{"concurrency": 2, **more})


def figures(manager: OrganismManager, name: str) -> dict[str, Any]:
    found: dict[str, Any] = manager.status()["organs"][name]
    return found


def processes(manager: OrganismManager, name: str) -> list[int]:
    return [agent["pid"] for agent in figures(manager, name)["agents"]]


def lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def gone(*pids: int) -> None:
    await until(lambda: not any(map(lives, pids)))


def pipe(folder: Path, name: str) -> str:
    os.mkfifo(folder / name)
    return str(folder / name)


async def open_up(path: str) -> None:
    """Let whoever waits at the pipe go on."""
    await anyio.to_thread.run_sync(Path(path).write_text, "go")


def with_neighbours(*rows: Any) -> dict[str, Any]:
    return batch(*rows, *[("echo", {"n": n}) for n in range(10)], *[("near", {}) for _ in range(10)])


def check_neighbours(result: Result, first: int) -> None:
    assert {result.causes[first + n] for n in range(20)} == {"completed"}


# What it is called with, and what becomes of what it returns


@pytest.mark.parametrize(
    ("handler", "form"), [("pid", "sync"), ("pid_async", "async"), ("pids", "sync"), ("pids_async", "async")]
)
async def test_it_runs_in_another_process_that_is_used_again(handler: str, form: str) -> None:
    is_batch = handler.startswith("pids")
    manager = organism(apart("h", handler, concurrency=1, batch=is_batch, max_batch_size=2))
    [first] = processes(manager, "h")
    result = await run(manager, batch(*[("h", {})] * 4))
    found = [result.results[n] for n in range(4)]
    assert found == ([[first, 2]] * 4 if is_batch else [first] * 4)
    assert first != os.getpid()
    assert figures(manager, "h")["form"] == form
    assert figures(manager, "h")["agents"] == [{"pid": first, "busy": False}]


async def test_forms_of_handlers() -> None:
    manager = organism(
        apart("typed", "typed"),
        apart("counts", "Counts", concurrency=1),
        apart("loop", "same_loop", concurrency=1),
        apart("later", "tests.support.organism.misbehaviour:looks_plain"),
        apart("seen", "tests.support.organism.misbehaviour:seen"),
    )
    kinds = ["counts", "counts", "loop", "loop", "later", "seen"]
    result = await run(
        manager,
        batch(
            ("typed", {"x": 2, "y": 3}, 20.0), ("typed", {"y": 3}), *[(kind, {"p": 2**63}) for kind in kinds]
        ),
    )
    assert result.results[0] == [5, "task-0", 1, True]
    assert result.causes[1] == "rejected"
    assert "params.x: Field required" in (result.errors[1] or "")
    assert [result.results[2], result.results[3]] == [1, 2]
    assert result.results[4] == result.results[5]
    assert result.results[6] == {"awaited": {"p": 2**63}}
    assert result.results[7] == {
        "task_id": "task-7",
        "claim": 107,
        "attempt": 1,
        "type": "seen",
        "params": {"p": 2**63},
        "description": None,
        "domain": None,
        "drift_score": 0.0,
    }


async def test_what_a_handler_leaves_in_its_context_is_not_the_next_ones() -> None:
    manager = organism(apart("turn", "tests.support.organism.misbehaviour:turn", concurrency=1))
    hows = ["return", "cancel itself", "time out by itself", "raise", "wait", "return"]
    result = await run(manager, batch(*[("turn", {"how": how, "mark": True}) for how in hows]))
    assert [result.causes[n] for n in range(6)] == ["completed"] * 2 + ["failed"] * 2 + ["completed"] * 2
    assert [result.results[n] for n in (0, 1, 4, 5)] == ["fresh"] * 4
    manager = organism(apart("mark", "mark", concurrency=1))
    assert (await run(manager, batch(("mark", {}), ("mark", {})))).results == {0: "fresh", 1: "fresh"}


async def test_progress_is_shown_in_the_status_and_the_last_word_arrives(tmp_path: Path) -> None:
    manager = organism(apart("p", "progresses"))
    waits = pipe(tmp_path, "waits")
    async with anyio.create_task_group() as group:

        async def look() -> None:
            await until(lambda: [t["note"] for t in figures(manager, "p")["longest"]] == ["last word"])
            [longest] = figures(manager, "p")["longest"]
            assert (longest["task_id"], longest["progress"]) == ("task-0", 0.9)
            assert figures(manager, "p")["agents"][0]["busy"] is True
            await open_up(waits)

        group.start_soon(look)
        result = await run(manager, batch(("p", {"waits": waits})))
    assert result.results[0] is False


async def test_a_word_that_comes_after_the_end_is_not_the_next_tasks(tmp_path: Path) -> None:
    manager = organism(apart("p", "SaysLater", concurrency=1))
    await run(manager, batch(("p", {})))
    says, waits = tmp_path / "says", pipe(tmp_path, "waits")
    async with anyio.create_task_group() as group:
        group.start_soon(run, manager, batch(("p", {"says": str(says), "waits": waits})))
        await until(says.exists)
        assert [task["note"] for task in figures(manager, "p")["longest"]] == [""]
        await open_up(waits)
    assert len(processes(manager, "p")) == 1


async def test_as_many_at_once_as_its_concurrency(tmp_path: Path) -> None:
    manager = organism(apart("m", "meet", concurrency=3))
    wire = batch(*[("m", {"folder": str(tmp_path), "name": name, "many": 3}) for name in "abc"])
    result = await run(manager, wire)
    assert set(result.causes.values()) == {"completed"}
    assert len(set(result.results.values())) == 3
    assert set(processes(manager, "m")) == set(result.results.values())
    await run(manager, batch(*[("m", {"folder": str(tmp_path), "name": "a", "many": 3})] * 20))
    assert set(processes(manager, "m")) == set(result.results.values())


# What it can do wrong


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("exit 0", "the worker process died: exited with code 0"),
        ("exit 3", "the worker process died: exited with code 3"),
        ("segfault", "the worker process died: SIGSEGV"),
        ("kill", "the worker process died: SIGKILL"),
        ("odd signal", "the worker process died: signal 37"),
        ("close everything", "the worker process closed its connection"),
        ("talk nonsense", "the worker process sent something that is not a message"),
        ("outlived", "the worker process died: SIGKILL"),
    ],
)
@pytest.mark.parametrize("handler", ["misbehave", "misbehave_async"])
async def test_a_death_is_charged_to_its_task_alone(how: str, words: str, handler: str) -> None:
    manager = organism(apart("bad", handler, concurrency=1), apart("near", "pid"))
    [first] = processes(manager, "bad")
    # In time: what outlives it does so for longer.
    result = await run(manager, with_neighbours(("bad", {"how": how}, 20.0), ("bad", {"how": "nothing"})))
    check_neighbours(result, 2)
    assert (result.causes[0], result.errors[0]) == ("failed", f"WorkerProcessDied: {words}")
    assert result.causes[1] == "completed"
    assert result.results[1] not in (first, None)
    assert processes(manager, "bad") == [result.results[1]]
    await gone(first)
    assert manager.health()["status"] == "healthy"


@pytest.mark.parametrize(
    ("how", "cause", "words"),
    [
        ("no memory", "failed", "MemoryError"),
        ("system exit", "failed", "SystemExit: 3"),
        ("interrupt", "failed", "KeyboardInterrupt"),
        ("own exception", "failed", "OnlyHere: mine"),
        ("own permanent exception", "rejected", "OnlyHerePermanent: mine"),
        ("garbage", "rejected", "the result cannot be stored: $.lock is a lock"),
        ("huge", "rejected", "the result cannot be stored: $ is 2,000,002 bytes"),
    ],
)
@pytest.mark.parametrize("handler", ["misbehave", "misbehave_async"])
async def test_whatever_else_it_does_its_process_goes_on(
    how: str, cause: str, words: str, handler: str
) -> None:
    manager = organism(apart("bad", handler, concurrency=1))
    [first] = processes(manager, "bad")
    rows = [("bad", {"how": how}), ("bad", {"how": "interrupted"}), ("bad", {"how": "nothing"})]
    result = await run(manager, batch(*rows))
    assert result.causes[0] == cause
    assert words in (result.errors[0] or "")
    if cause == "failed" and how != "no memory":
        assert "crashes.py:" in (result.errors[0] or "")
    assert result.results[1] == result.results[2] == first


async def test_what_is_left_on_the_loop_cannot_end_the_process() -> None:
    manager = organism(apart("b", "background", concurrency=1))
    [first] = processes(manager, "b")
    result = await run(manager, batch(("b", {"leave": True}), ("b", {}), ("b", {})))
    assert result.causes == {0: "failed", 1: "completed", 2: "completed"}
    assert "SystemExit: 7" in (result.errors[0] or "")
    assert processes(manager, "b") == [first]


@pytest.mark.parametrize("how", ["loop", "compute in C"])
@pytest.mark.parametrize("handler", ["misbehave", "misbehave_async"])
async def test_a_handler_that_never_ends_is_killed_in_time(
    how: str, handler: str, tmp_path: Path, timeouts: HeldTimeouts
) -> None:
    manager = organism(apart("bad", handler, concurrency=1), apart("near", "pid"))
    [first] = processes(manager, "bad")
    says = tmp_path / "says"
    rows = ("bad", {"how": how, "says": str(says)}, 0.3), ("bad", {"how": "nothing"})
    running = asyncio.create_task(run(manager, with_neighbours(*rows)))
    await until(says.exists)
    timeouts.lapse("bad")
    result = await running
    check_neighbours(result, 2)
    assert result.causes[0] == "timed_out"
    assert result.errors[0] == "timed out after 0.3 s"
    assert result.causes[1] == "completed"
    await gone(first)
    await until(lambda: not manager.status()["totals"]["abandoned"])
    assert in_flight(manager) == 0


@pytest.mark.parametrize("how", ["start another", "start another elsewhere"])
async def test_what_it_has_started_is_killed_with_it(
    tmp_path: Path, how: str, timeouts: HeldTimeouts
) -> None:
    manager = organism(apart("bad", "misbehave"))
    child = tmp_path / "child"
    running = asyncio.create_task(run(manager, batch(("bad", {"how": how, "child": str(child)}))))
    started = int(await until(lambda: child.exists() and child.read_text()))
    timeouts.lapse("bad")
    assert (await running).causes[0] == "timed_out"
    await gone(started)


@pytest.mark.parametrize("how", ["fork and return", "fork and raise"])
@pytest.mark.parametrize("processes", [True, False], ids=["in a process", "in a thread"])
async def test_a_fork_that_returns_ends_and_is_not_the_next_tasks(how: str, processes: bool) -> None:
    manager = organism(organ("bad", f"{MODULE}:misbehave", processes=processes, concurrency=1))
    rows = [("bad", {"how": how})] * 3 + [("bad", {"how": "return"})] * 3
    for _ in range(2):
        result = await run(manager, batch(*rows))
        assert set(result.causes.values()) == {"completed"}
        for position in range(3):
            if how == "fork and return":
                await gone(result.results[position]["child"])


@pytest.mark.parametrize("batched", [False, True])
async def test_cancelling_kills_it(tmp_path: Path, batched: bool) -> None:
    manager = organism(apart("bad", "pids" if batched else "misbehave", concurrency=1, batch=batched))
    says = tmp_path / "says"

    async def cancel() -> None:
        await until(says.exists)
        if batched:
            assert cancel_claims(manager, 100) == [100]
            assert lives(int(says.read_text())), "somebody wants the other"
        assert cancel_claims(manager, 100, 101) == [100, 101]
        assert in_flight(manager) == 0

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        rows = [("bad", {"how": "loop", "says": str(says)}), ("bad", {"how": "loop"})]
        result = await run(manager, batch(*rows))
    assert set(result.causes.values()) == {"cancelled"}
    await gone(int(says.read_text()))
    await until(lambda: not manager.status()["totals"]["abandoned"])


async def test_it_is_killed_when_nobody_waits_any_more(tmp_path: Path) -> None:
    manager = organism(apart("bad", "misbehave"))
    says = tmp_path / "says"
    async with anyio.create_task_group() as group:
        group.start_soon(run, manager, batch(("bad", {"how": "loop", "says": str(says)})))
        await until(says.exists)
        group.cancel_scope.cancel()
    await gone(int(says.read_text()))
    assert in_flight(manager) == 0
    assert manager.status()["totals"]["interrupted"] == 1


@pytest.mark.parametrize(
    ("how", "cause", "words"),
    [
        ("segfault", "failed", "SIGSEGV"),
        ("own exception", "failed", "OnlyHere"),
        ("loop", "timed_out", "timed out"),
    ],
)
@pytest.mark.parametrize("handler", ["pids", "pids_async"])
async def test_a_batch_charges_only_its_culprit(
    how: str, cause: str, words: str, handler: str, tmp_path: Path, timeouts: HeldTimeouts
) -> None:
    manager = organism(apart("b", handler, concurrency=1, batch=True), apart("near", "pid"))
    says = tmp_path / "says"
    rows = [("b", {"how": how, "says": str(says)} if n == 2 else {}) for n in range(5)]
    running = asyncio.create_task(run(manager, with_neighbours(*rows)))
    for _ in range(2 if how == "loop" else 0):  # with its batch, and alone
        await until(says.exists)
        says.unlink()
        timeouts.lapse("b")
    result = await running
    check_neighbours(result, 5)
    assert [result.causes[n] for n in range(5)] == ["completed"] * 2 + [cause] + ["completed"] * 2
    assert words in (result.errors[2] or "")
    assert [result.results[n][1] for n in (0, 1, 3, 4)] == [1] * 4


# Deaths between calls


async def test_an_idle_process_that_was_killed_is_replaced_unnoticed() -> None:
    manager = organism(apart("h", "pid", concurrency=1))
    [first] = processes(manager, "h")
    os.kill(first, signal.SIGKILL)
    await gone(first)
    result = await run(manager, batch(("h", {})))
    assert result.results[0] not in (first, None)


async def test_a_process_that_dies_as_it_is_given_a_task_is_replaced_unnoticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manager = organism(apart("h", "pid", concurrency=1))
    await run(manager, batch(("h", {})))
    [first] = processes(manager, "h")
    os.kill(first, signal.SIGKILL)
    await gone(first)
    # As if it had died right after the look.
    monkeypatch.setattr(
        "organism_flows.serve_apps.organism.processes.worker_process.WorkerProcess.alive", True
    )
    result = await run(manager, batch(("h", {})))
    assert result.results[0] not in (first, None)


PARENT = """
import asyncio, sys
from tests.support.organism.helpers import batch, run
from tests.unit.serve_apps.organism.test_agents import apart, organism, processes

async def main():
    manager = organism(apart("idle", "pid"), apart("bad", "misbehave"))
    print(*processes(manager, "idle"), *processes(manager, "bad"), flush=True)
    await run(manager, batch(("bad", {"how": sys.argv[1], "says": sys.argv[2], "child": sys.argv[3]})))

asyncio.run(main())
"""


@pytest.mark.parametrize("children_first", [False, True], ids=["", "as Ray does"])
@pytest.mark.parametrize("how", ["loop", "compute in C", "start another elsewhere"])
async def test_processes_end_with_their_parent(tmp_path: Path, how: str, children_first: bool) -> None:
    says, child = tmp_path / "says", tmp_path / "child"
    parent = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", PARENT, how, str(says), str(child)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pids = [int(word) for word in (await anyio.to_thread.run_sync(parent.stdout.readline)).split()]
    assert len(pids) == 2
    if how == "start another elsewhere":
        await until(lambda: child.exists() and child.read_text())
        pids.append(int(child.read_text()))
    else:
        await until(says.exists)
    assert all(map(lives, pids))
    if children_first:
        for process in psutil.Process(parent.pid).children():
            process.kill()
    parent.kill()
    parent.wait()
    await gone(*pids)


# Starts and configurations


FRAGILE = """
import os
from pathlib import Path

HERE = Path(__file__).parent
with (HERE / "loads").open("a") as loads:
    print(os.getpid(), file=loads)
if (HERE / "broken").exists():
    raise OSError("the model file is missing")
if (HERE / "deadly").exists():
    os._exit(9)
if (HERE / "slow").exists():
    (HERE / "slow").read_text()

def handle(task):
    if task["params"].get("die"):
        os._exit(1)
    return os.getpid()

other = handle
"""


class Fragile:
    """A handler's module in a folder where it is broken and repaired."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"fragile_{folder.name}"
        (folder / f"{self.name}.py").write_text(FRAGILE)
        self.broken = folder / "broken"

    def organ(self, attribute: str = "handle", **more: Any) -> dict[str, Any]:
        return apart("f", f"{self.name}:{attribute}", **more)

    def organism(self, **more: Any) -> OrganismManager:
        return organism(self.organ(**more), python_path=[str(self.folder)])

    @property
    def loads(self) -> list[int]:
        """Pids of the processes that have imported it."""
        file = self.folder / "loads"
        return [int(line) for line in file.read_text().split()] if file.exists() else []


@pytest.fixture
def fragile(tmp_path: Path) -> Fragile:
    return Fragile(tmp_path)


async def test_the_replica_itself_does_not_load_the_handler(fragile: Fragile) -> None:
    manager = fragile.organism()
    await run(manager, batch(("f", {})))
    assert fragile.loads == processes(manager, "f")
    assert fragile.name not in sys.modules


async def test_processes_that_do_not_start_are_the_organs_problem(
    fragile: Fragile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents_module, "LONGEST_PAUSE_S", 0.01)
    manager = fragile.organism(concurrency=1)
    fragile.broken.touch()
    assert (await run(manager, batch(("f", {"die": True})))).causes[0] == "failed"
    for number in range(1, 4):
        await manager.check_health()
        result = await run(manager, with_echo(("f", {})))
        assert (result.causes[0], result.causes[1]) == ("failed", "completed")
        assert "OSError: the model file is missing" in (result.errors[0] or "")
        assert len(fragile.loads) == 1 + number, "one start a task"
    with pytest.raises(RuntimeError, match=r"organ f: its processes do not start: .*model file is missing"):
        await manager.check_health()
    assert manager.health()["status"] == "unhealthy"
    fragile.broken.unlink()
    assert (await run(manager, batch(("f", {})))).causes[0] == "completed"
    await manager.check_health()
    fragile.broken.touch()
    assert (await run(manager, batch(("f", {"die": True})))).causes[0] == "failed"
    assert (await run(manager, batch(("f", {})))).causes[0] == "failed"
    await manager.check_health()


def with_echo(*rows: Any) -> dict[str, Any]:
    return batch(*rows, ("echo", {}))


async def test_starts_that_fail_leave_more_and_more_time_between_them(fragile: Fragile) -> None:
    manager = fragile.organism(concurrency=1)
    (fragile.folder / "deadly").touch()
    await run(manager, batch(("f", {"die": True})))
    begun = time.monotonic()
    result = await run(manager, batch(*[("f", {})] * 5))
    assert set(result.errors.values()) == {"WorkerProcessDied: the worker process died: exited with code 9"}
    assert time.monotonic() - begun >= 0.2 + 0.4 + 0.8 + 1.6


async def test_the_start_of_a_process_is_not_the_time_of_the_tasks_that_wait_for_it(
    fragile: Fragile, timeouts: HeldTimeouts
) -> None:
    manager = fragile.organism(concurrency=1)
    waits = pipe(fragile.folder, "slow")
    assert (await run(manager, batch(("f", {"die": True})))).causes[0] == "failed"
    before = timeouts.calls["f"]
    running = asyncio.create_task(run(manager, batch(("f", {}), ("f", {}))))
    await until(lambda: fragile.loads[1:])
    assert timeouts.calls["f"] == before, "their time has not begun"
    await open_up(waits)
    result = await running
    assert set(result.causes.values()) == {"completed"}
    assert len(fragile.loads) == 2, "the second waits for the process of the first"


@pytest.mark.parametrize(
    ("attribute", "how", "words"),
    [
        ("handel", None, "has no handel; did you mean handle?"),
        ("HERE", None, "cannot be called"),
        ("other", "broken", "OSError: the model file is missing"),
        ("other", "deadly", "the worker process died: exited with code 9"),
    ],
)
async def test_a_handler_that_is_refused_leaves_the_old_configuration(
    fragile: Fragile, attribute: str, how: str | None, words: str
) -> None:
    manager = fragile.organism()
    before = processes(manager, "f")
    if how:
        (fragile.folder / how).touch()
    organs = [apart("new", "pid"), fragile.organ(attribute)]
    started = {child.pid for child in psutil.Process().children()}
    with pytest.raises(ConfigurationError, match=r"organ 'f': handler .* cannot be used: ") as caught:
        await manager.reconfigure({"organs": organs, "python_path": [str(fragile.folder)]})
    assert words in caught.value.what
    assert caught.value.next_step == "correct the path, or make the module importable on the replicas"
    assert manager.health()["status"] == "degraded"
    assert processes(manager, "f") == before
    assert (await run(manager, batch(("f", {})))).results[0] in before
    await until(lambda: {child.pid for child in psutil.Process().children()} <= started)
    with pytest.raises(ConfigurationError, match=f"organ 'f': .*{words.split('?')[0]}"):
        organism(apart("new", "pid"), fragile.organ(attribute))
    await until(lambda: {child.pid for child in psutil.Process().children()} <= started)


async def test_a_new_configuration_keeps_or_closes_processes(tmp_path: Path) -> None:
    manager = organism(apart("kept", "pid"), apart("slower", "pid"), apart("other", "pid"), apart("f", "pid"))
    before = {name: processes(manager, name) for name in ("kept", "slower", "other", "f")}
    says, waits = tmp_path / "says", pipe(tmp_path, "waits")
    async with anyio.create_task_group() as group:
        group.start_soon(run, manager, batch(("f", {"says": str(says), "waits": waits})))
        await until(says.exists)
        await manager.reconfigure(
            {
                "organs": [
                    apart("kept", "pid"),
                    apart("slower", "pid", timeout_s=7, concurrency=1),
                    apart("other", "pid_async"),
                    organ("f", f"{MODULE}:pid"),
                ]
            }
        )
        assert processes(manager, "kept") == before["kept"]
        assert processes(manager, "slower") == before["slower"], "the handler is the same"
        assert figures(manager, "f")["agents"] == []
        await gone(*before["other"])
        assert lives(before["f"][0]), "its call goes on"
        await open_up(waits)
    # An old organ goes when something else has ended after it.
    result = await run(manager, batch(*[(name, {}) for name in ("kept", "slower", "other", "f")]))
    assert [result.results[0]] == before["kept"]
    assert [result.results[1]] == before["slower"]
    assert [result.results[2]] == processes(manager, "other")
    assert result.results[3] == os.getpid()
    await gone(*before["f"])
    assert manager.status()["retiring_organs"] == 0


async def test_fewer_processes_are_kept_when_fewer_are_allowed(tmp_path: Path) -> None:
    manager = organism(apart("m", "meet", concurrency=3))
    await run(manager, batch(*[("m", {"folder": str(tmp_path), "name": n, "many": 3}) for n in "abc"]))
    before = processes(manager, "m")
    assert len(before) == 3
    await manager.reconfigure({"organs": [apart("m", "meet", concurrency=1)]})
    await until(lambda: sum(map(lives, before)) == 1)
    assert [pid for pid in before if lives(pid)] == processes(manager, "m")


def test_an_agent_imports_nothing_heavy() -> None:
    code = (
        "import sys, organism_flows.serve_apps.organism.processes.worker_main; "
        "print([m for m in ('ray', 'prefect', 'asyncpg', 'asyncio', 'sqlalchemy') if m in sys.modules])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"
