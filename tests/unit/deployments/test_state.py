"""The stack's own files."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from organism_flows.blocks.errors import StackError
from organism_flows.blocks.local_stack.stack_state import ProcessRef, StackState, read_stack
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack import secret_files, state
from organism_flows.deployments.stack.addresses import dsn_mark, ignored_ports, plan
from organism_flows.deployments.stack.status import status

HOLD = """
import asyncio, sys
from pathlib import Path
from organism_flows.deployments.stack.state import turn
async def main():
    async with turn(Path(sys.argv[1]), "up", waiting=print):
        print("held", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


def a_plan(home: Path, **settings: Any) -> StackState:
    return plan(
        Settings(home=home, **settings),
        home,
        dsn="",
        previous=None,
        kept=(),
        on_note=lambda role, line: None,
    )


def test_the_state_file_round_trips_and_is_ours_alone(tmp_path: Path) -> None:
    stack = a_plan(tmp_path)
    stack.processes["ray"] = ProcessRef(pid=1, created=2.5)
    state.write_stack(stack)
    assert read_stack(tmp_path) == stack
    assert (tmp_path / "stack.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    state.write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        state.write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"home": "/x"}', "\x00"])
def test_a_broken_state_file_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "stack.json").write_text(text)
    with pytest.raises(StackError) as caught:
        read_stack(tmp_path)
    assert str(tmp_path / "stack.json") in caught.value.what
    assert "organism down" in caught.value.next_step


def test_the_token_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = secret_files.ray_token(tmp_path)
    token = path.read_text()
    assert len(token.strip()) == 64
    path.chmod(0o644)
    assert secret_files.ray_token(tmp_path).read_text() == token
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_state_never_holds_the_database_url(tmp_path: Path) -> None:
    with_secret = Settings(home=tmp_path, dsn=SecretStr("postgresql://u:hunter2@h/d"))
    stack = a_plan(tmp_path, dsn=SecretStr("postgresql://u:hunter2@h/d"))
    assert "hunter2" not in stack.model_dump_json()
    assert stack.dsn_mark == dsn_mark(tmp_path, with_secret)
    assert stack.dsn_mark != dsn_mark(tmp_path, Settings(home=tmp_path, dsn=SecretStr("postgresql://h/e")))


def test_ports_that_have_no_effect_on_a_running_stack_are_told(tmp_path: Path) -> None:
    stack = a_plan(tmp_path)
    running = int(stack.prefect_ui_url.rsplit(":", 1)[1])
    assert ignored_ports(Settings(home=tmp_path, prefect_port=running), stack) == []
    assert "ORGANISM_PREFECT_PORT=1" in ignored_ports(Settings(home=tmp_path, prefect_port=1), stack)[0]


def test_up_refuses_a_stack_that_another_installation_runs(tmp_path: Path) -> None:
    elsewhere = tmp_path / "other" / "bin"
    elsewhere.mkdir(parents=True)
    (elsewhere / "python").symlink_to(Path(sys.executable).resolve())
    stack = a_plan(tmp_path)
    for python in (elsewhere / "python", Path(sys.executable)):
        command = [str(python), "-c", "print(1, flush=True); input()"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"1\n"
            created = psutil.Process(process.pid).create_time()
            stack.processes["worker"] = ProcessRef(pid=process.pid, created=created)
            if python.parent != elsewhere:
                state.refuse_other_installation(stack)
                continue
            state.write_stack(stack)
            up = subprocess.run(
                [sys.executable, "-m", "organism_flows.deployments.cli.main", "up", "--json"],
                env={**os.environ, "ORGANISM_HOME": str(tmp_path)},
                capture_output=True,
                check=False,
                text=True,
            )
            assert up.returncode == 1, up.stderr
            assert json.loads(up.stdout) == {
                "error": f"the stack in {tmp_path} runs from another installation: worker from {elsewhere}",
                "next_step": f"stop it there: `{elsewhere}/organism down`, then run this again",
            }
            assert read_stack(tmp_path) == stack, "nothing was stopped or started"
            assert process.poll() is None
        finally:
            process.kill()
            process.communicate()
    state.refuse_other_installation(stack)  # neither runs any more
    state.refuse_other_installation(None)


def test_turns_are_taken_and_a_dead_holder_gives_way(tmp_path: Path) -> None:
    said: list[str] = []
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"

    async def wait_and_take() -> None:
        with pytest.raises(StackError, match=rf"`organism up` \(pid {holder.pid}\) still holds"):
            async with state.turn(tmp_path, "up", waiting=said.append, timeout=0.1):
                pytest.fail("two at once")
        holder.kill()
        async with state.turn(tmp_path, "up", waiting=said.append, timeout=10):
            assert json.loads((tmp_path / "stack.lock").read_text())[1] == os.getpid()

    try:
        asyncio.run(wait_and_take())
    finally:
        holder.kill()
        holder.wait()
    assert said[0] == f"`organism up` (pid {holder.pid}) is at work on this stack; waiting for it"


def test_down_asks_an_up_at_work_to_stop(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"

    async def take() -> None:
        async with state.turn(tmp_path, "down", waiting=lambda line: None, interrupt=True, timeout=10):
            pass

    try:
        asyncio.run(take())
        assert holder.wait(10) == -signal.SIGTERM
    finally:
        holder.kill()
        holder.wait()


def test_the_status_as_json_has_the_fields_it_had(tmp_path: Path) -> None:
    found = asyncio.run(status(Settings(home=tmp_path))).model_dump(mode="json")
    assert list(found) == ["home", "stack_id", "state", "components", "logs", "notes", "work"]
    assert list(found["components"]) == ["postgres", "ray", "prefect", "organism"]
    one = {"state": "stopped", "address": "", "pid": None, "detail": "", "seconds": 0.0}
    assert found["components"]["ray"] == one
    assert (found["state"], found["notes"], found["work"]) == ("stopped", [], [])
