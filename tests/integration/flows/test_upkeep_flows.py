"""submit, redrive and watchdog as flows, on a real Postgres and a Prefect server of the tests' own."""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter
from prefect.exceptions import ParameterTypeError
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from prefect.states import Completed, Pending, Running, Scheduled

from organism_flows.blocks.errors import ConfigurationError, OrganismError, QueueUnavailable
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.bootstrap import bootstrap
from organism_flows.flows.dispatch import dispatch
from organism_flows.flows.prefect_support.stale_runs import (
    FLOW_NAMES,
    HEARTBEAT,
    StaleRuns,
    _patience,
    clean_up_stale_runs,
)
from organism_flows.flows.prefect_support.states import ORGANISM_TAG
from organism_flows.flows.redrive import redrive
from organism_flows.flows.submit import submit
from organism_flows.flows.verify import verify
from organism_flows.flows.watchdog import watchdog
from organism_flows.flows.watchdog.queue_check import WATCHDOG_LOCK
from tests.support.clock import START, advance, set_clock
from tests.support.flows.moments import known
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("own_prefect")]
LONG_AGO: Any = {"pending_before": START, "ended_before": START}


async def newest_run(name: str) -> Any:
    async with get_client() as client:
        runs = await client.read_flow_runs(limit=200)
    return max((run for run in runs if run.name.startswith(name)), key=lambda run: known(run.created))


async def page_of(run: UUID) -> Any:
    async with get_client() as client:
        [artifact] = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run]))
        )
    return artifact


async def dead_letter(queue: Queue, type: str = "t", error: str = "boom | `x`") -> UUID:
    [task_id] = await queue.submit([NewTask(type=type)])
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "rejected", error=error))
    return task_id


# redrive


async def test_redrive_shows_and_then_does(queue: Queue) -> None:
    ids = {await dead_letter(queue) for _ in range(3)}
    await dead_letter(queue, "other")
    shown = await redrive(type="t", error="boom%")
    assert (shown.dry_run, shown.found, shown.redriven) == (True, 3, 0)
    assert (await queue.reader.counts())["failed"] == 4
    run = await newest_run("redrive")
    assert run.name.endswith("dry run")
    assert run.state.message == "dry run: 3 tasks would be redriven"
    page = await page_of(run.id)
    assert page.key == "redrive-summary"
    assert all(str(task_id) in page.data for task_id in ids)

    done = await redrive(type="t", error="boom%", dry_run=False)
    assert (done.dry_run, done.redriven) == (False, 3)
    assert (await queue.reader.counts())["queued"] == 3
    run = await newest_run("redrive")
    assert run.state.message == "3 tasks redriven"
    audited = "SELECT actor FROM task_audit WHERE id = $1"
    assert str(run.id) in await pool_of(queue).fetchval(audited, done.audit)
    assert (await redrive(type="t", dry_run=False)).redriven == 0


# submit


async def test_submit_loads_a_pattern_of_files_once(queue: Queue, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"type": "t"}\n' * 3)
    (tmp_path / "c.csv").write_text("type,params.city\nt,Rome\n")
    done = await submit(f"{tmp_path}/*")
    assert (done.files, done.added, done.earlier, done.bad) == (3, 7, 0, 0)
    done = await submit(f"{tmp_path}/*")
    assert (done.added, done.earlier) == (0, 7)
    assert (await queue.reader.counts())["queued"] == 7
    run = await newest_run("submit")
    assert run.state.message == "0 tasks submitted of 3 files, 7 had been before"


async def test_submit_makes_columns_of_files_the_params_of_one_type(queue: Queue, tmp_path: Path) -> None:
    file = tmp_path / "raw.csv"
    file.write_text("id;text;note\n1;one;x\n2;two;y\n")
    done = await submit(str(file), type="embed", columns={"text": "params.input", "note": ""})
    assert done.added == 2
    rows = await pool_of(queue).fetch("SELECT type, params::text FROM tasks ORDER BY params->>'id'")
    assert [tuple(row) for row in rows] == [
        ("embed", '{"id": "1", "input": "one"}'),
        ("embed", '{"id": "2", "input": "two"}'),
    ]
    with pytest.raises(ConfigurationError, match="no task has"):
        await submit(str(file), type="embed", columns={"text": "colour"})


async def test_submit_names_bad_lines_and_loads_nothing_or_the_others(queue: Queue, tmp_path: Path) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text('{"type": "t", "params": {"password": "hunter2"}}\n{"type": "t", "parms": "hunter2"}\n')
    with pytest.raises(ConfigurationError, match="1 of 2 lines are bad, nothing was submitted"):
        await submit(str(file))
    assert (await queue.reader.counts())["queued"] == 0
    run = await newest_run("submit")
    assert run.state_type == StateType.FAILED
    assert f"{file}:2: parms is not a known field" in run.state.message
    page = (await page_of(run.id)).data
    assert f"{file}:2: parms is not a known field" in page.replace("\\", ""), "escaped for markdown"
    done = await submit(str(file), strict=False)
    assert (done.added, done.bad) == (1, 1)
    run = await newest_run("submit")
    page = (await page_of(run.id)).data
    assert f"{file}:2: parms" in page.replace("\\", ""), "escaped for markdown"
    assert "hunter2" not in page + run.state.message + str(run.parameters)


# Refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: redrive(error="x\\"), ConfigurationError, "ends with a backslash"),
        (lambda: redrive(limit=0), ParameterTypeError, "greater than or equal to 1"),
        (lambda: redrive(queue="none"), ConfigurationError, "task-queue/none"),
        (lambda: submit("/does/not/exist*"), ConfigurationError, "no file fits"),
        (lambda: submit("x.parquet", queue="none"), ConfigurationError, "no file fits"),
        (lambda: watchdog(keep_failed_days=0), ParameterTypeError, "greater than 0"),
        (lambda: watchdog(queue="none"), ConfigurationError, "task-queue/none"),
    ],
)
async def test_a_refusal_is_one_line(queue: Queue, call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        await call()


@pytest.mark.parametrize("run", [lambda: redrive(), lambda: watchdog(), lambda: submit(__file__)])
async def test_an_unreachable_database_is_one_line_without_its_password(
    monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    monkeypatch.setenv("ORGANISM_DSN", "postgresql://me:hunter2@127.0.0.1:1/db")
    with pytest.raises(QueueUnavailable, match=r"cannot reach Postgres at 127\.0\.0\.1:1/db") as refused:
        await run()
    assert "hunter2" not in str(refused.value)


# watchdog


async def test_a_watchdog_takes_back_deletes_and_tells(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORGANISM_ALERT_OLDEST_READY", "86400000")
    await set_clock(queue, START)
    await queue.submit([NewTask(type="held"), NewTask(type="held")])
    await claim(queue, "dead")
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, status, locked_by) VALUES ('t', 'running', 'stray')"
    )
    [young] = await queue.submit([NewTask(type="t")])
    await queue.operator.cancel([young])
    await dead_letter(queue)
    await advance(queue, 86_400)
    assert (await watchdog()).pruned == 0, "unless told otherwise, all are kept"
    await advance(queue, 100)
    done = await watchdog(keep_completed_days=2, keep_failed_days=1)
    assert (done.failed_pruned, done.cancelled_pruned) == (1, 0)
    run = await newest_run("watchdog")
    assert run.state.message == "1 tasks deleted"
    assert (await page_of(run.id)).key == "watchdog-summary"
    assert (await watchdog(keep_completed_days=1)).cancelled_pruned == 1
    assert (await queue.reader.counts())["retry"] == 3
    assert await queue.reader.lanes() == []
    assert (await watchdog()).seconds > 0
    assert (await newest_run("watchdog")).state.message == "all is well"

    names = EventNameFilter(prefix=["organism.watchdog."])
    async with get_client() as client, asyncio.timeout(30):
        while len(events := (await client.read_events(EventFilter(event=names), limit=50)).events) < 3:
            await asyncio.sleep(0.1)  # the server takes them in when it comes to it
    assert sorted(event.event for event in events) == [
        "organism.watchdog.pruned",
        "organism.watchdog.pruned",
        "organism.watchdog.reaped",
    ]
    [reaped] = [event for event in events if event.event == "organism.watchdog.reaped"]
    assert reaped.payload["tasks_taken_back"] == 3
    assert reaped.resource.id == "organism.queue.default"


async def test_a_second_watchdog_ends_at_once(queue: Queue) -> None:
    await set_clock(queue, START)
    await queue.leases.register("dead")
    await advance(queue, 100)
    async with queue.maintenance.exclusive(WATCHDOG_LOCK) as mine:
        assert mine
        done = await watchdog()
    assert (done.exclusive, done.lanes_ended) == (False, 0)
    run = await newest_run("watchdog")
    assert (run.state_type, run.state.message) == (StateType.COMPLETED, "another watchdog is at work")
    assert run.flow_version == ORGANISM_TAG, "by which the next watchdog knows it"
    assert [lane.id for lane in await queue.reader.lanes()] == ["dead"]


async def test_runs_that_nobody_runs_have_crashed(queue: Queue) -> None:
    @flow(name="verify", version=ORGANISM_TAG)
    async def ours() -> None: ...

    @flow(name="verify")  # the name alone makes nothing ours
    async def theirs() -> None: ...

    @task
    async def lane() -> None: ...

    async with get_client() as client:

        async def ended_with_a_running_lane(of: Any) -> UUID:
            run = await client.create_flow_run(of, state=Running())
            left_over = await client.create_task_run(lane, run.id, "0", state=Running())
            await client.set_flow_run_state(run.id, Completed(), force=True)
            return left_over.id

        stuck, foreign, asking = [
            (await client.create_flow_run(f, state=Pending())).id for f in (ours, theirs, ours)
        ]
        orphan = await ended_with_a_running_lane(ours)
        foreign_orphan = await ended_with_a_running_lane(theirs)
        moment = datetime.now(UTC)
        fresh = (await client.create_flow_run(ours, state=Pending())).id
        lately = await ended_with_a_running_lane(ours)

        options: Any = {"pending_before": moment, "ended_before": moment, "within_s": 30, "own_run": asking}
        debris = await clean_up_stale_runs(**options)
        assert debris == StaleRuns(flow_runs=1, task_runs=1)
        states = {run: (await client.read_flow_run(run)).state for run in (stuck, foreign, asking, fresh)}
        assert [state.type.value for state in states.values() if state] == ["CRASHED", *["PENDING"] * 3]
        assert "no worker has started it" in str(states[stuck])
        states = {run: (await client.read_task_run(run)).state for run in (orphan, foreign_orphan, lately)}
        assert [state.type.value for state in states.values() if state] == ["CRASHED", *["RUNNING"] * 2]
        assert await clean_up_stale_runs(**options) == StaleRuns()


@flow(name="dispatch", version=ORGANISM_TAG)
async def as_dispatch() -> None: ...


async def state_of(run: UUID) -> str:
    async with get_client() as client:
        return str((await client.read_flow_run(run)).state_name)


async def heard(run: UUID) -> None:
    """The server has heard a heartbeat of ``run``, and something else after it."""
    resource = EventResourceFilter(id=[f"prefect.flow-run.{run}"])
    async with get_client() as client, asyncio.timeout(30):
        for name in (HEARTBEAT, "tests.later"):
            emit_event(name, resource={"prefect.resource.id": f"prefect.flow-run.{run}"})
            while True:
                # Made anew each time: it ends at the moment it is made.
                wanted = EventFilter(event=EventNameFilter(name=[name]), resource=resource)
                if (await client.read_events(wanted, limit=1)).events:
                    break
                await asyncio.sleep(0.1)  # the server takes them in when it comes to it


@pytest.mark.soak
async def test_a_run_whose_process_died_has_crashed_when_its_heartbeats_have_stopped(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with get_client() as client:
        dead, deaf, laned = [
            (await client.create_flow_run(as_dispatch, state=Running())).id for _ in range(3)
        ]
    await heard(dead)
    await heard(laned)
    await queue.leases.register("lane", run=str(laned), number=1)
    await watchdog()
    assert {await state_of(run) for run in (dead, deaf, laned)} == {"Running"}, "it was heard just now"
    monkeypatch.setattr("organism_flows.flows.prefect_support.stale_runs.SILENT_FOR", timedelta(0))
    monkeypatch.setattr("organism_flows.flows.prefect_support.stale_runs.SILENT_BEATS", 0)
    done = await watchdog()
    assert (done.flow_runs_crashed, await state_of(dead)) == (1, "Crashed")
    assert await state_of(laned) == "Running", "its lane lives"
    assert await state_of(deaf) == "Running", "it sends no heartbeats, which proves nothing"


def test_rare_heartbeats_are_waited_for() -> None:
    def beat(minute: int) -> Any:
        return SimpleNamespace(received=datetime(2026, 1, 1, 12, minute, tzinfo=UTC))

    assert _patience([beat(3), beat(0)]) == timedelta(minutes=10)
    assert _patience([beat(30), beat(20)]) == timedelta(minutes=30)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 600}):
        assert _patience([beat(3)]) == timedelta(minutes=30)


async def test_of_late_runs_one_of_each_deployment_stays(queue: Queue) -> None:
    async with get_client() as client:
        flow_id = await client.create_flow(as_dispatch)
        every = [DeploymentScheduleCreate(schedule=IntervalSchedule(interval=timedelta(seconds=60)))]
        late: dict[str, list[UUID]] = {}
        for name, tags in (("ours", [ORGANISM_TAG]), ("theirs", [])):
            deployment = await client.create_deployment(
                flow_id, f"late-{name}", schedules=every, tags=tags, paused=True
            )
            await client.update_deployment(deployment, DeploymentUpdate(paused=False))
            await client._client.post(
                f"/deployments/{deployment}/schedule",
                json={"min_runs": 4, "max_runs": 4, "start_time": "2026-01-01T00:00:00Z"},
            )
            filtered = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment]))
            runs = await client.read_flow_runs(
                flow_run_filter=filtered, sort=FlowRunSort.EXPECTED_START_TIME_ASC
            )
            by_hand = await client.create_flow_run_from_deployment(deployment)
            late[name] = [run.id for run in (*runs, by_hand)]
            for run in late[name]:
                await client.set_flow_run_state(run, Scheduled(name="Late"), force=True)
            await client.update_deployment(deployment, DeploymentUpdate(paused=True))
        assert len(late["ours"]) >= 4
    debris = await clean_up_stale_runs(**LONG_AGO, within_s=30)
    *cancelled, newest, by_hand_id = late["ours"]
    assert (debris.late, debris.trouble) == (len(cancelled), None)
    assert {await state_of(run) for run in cancelled} == {"Cancelled"}
    assert {await state_of(run) for run in (newest, by_hand_id, *late["theirs"])} == {"Late"}


async def test_notes_are_kept_until_told_otherwise(queue: Queue, tmp_path: Path) -> None:
    await set_clock(queue, START)
    file = tmp_path / "f.jsonl"
    file.write_text('{"type": "t"}\n')
    await queue.producer.load_files([file])
    await redrive(type="t", dry_run=False)
    await pool_of(queue).execute("INSERT INTO task_audit (action, actor) VALUES ('redrive', 'somebody')")
    await advance(queue, 3 * 86_400)
    assert (await watchdog()).notes_pruned == 0
    assert (await watchdog(keep_audit_days=4, keep_files_days=4)).notes_pruned == 0
    assert (await watchdog(keep_audit_days=2)).notes_pruned >= 1
    assert await pool_of(queue).fetchval("SELECT count(*) FROM task_audit") == 0
    assert (await queue.producer.load_files([file])).added == 0
    assert (await watchdog(keep_files_days=2)).notes_pruned == 1
    assert (await queue.producer.load_files([file])).added == 1, "it is a file that nobody knows"


async def test_a_prefect_server_that_does_not_answer_is_not_waited_for(queue: Queue) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and says nothing
        port = silent.getsockname()[1]
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
            debris = await asyncio.wait_for(clean_up_stale_runs(**LONG_AGO, within_s=0.5), 10)
    assert (debris.trouble or "").endswith(" does not answer: not within 0.5 s")
    url = f"http://127.0.0.1:{port}/api"
    with temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}):
        debris = await asyncio.wait_for(clean_up_stale_runs(**LONG_AGO, within_s=20), 30)
    assert debris.trouble is not None
    assert (debris.trouble or "").endswith(" does not answer: All connection attempts failed")


def test_every_flow_and_deployment_of_ours_can_be_known() -> None:
    flows = {f.name: f.version for f in (bootstrap, dispatch, redrive, submit, verify, watchdog)}
    assert flows == dict.fromkeys(FLOW_NAMES, ORGANISM_TAG)


def test_parameters_make_a_form() -> None:
    for f, bounded in ((redrive, "limit"), (submit, "files"), (watchdog, "keep_failed_days")):
        schema = f.parameters.model_dump()
        assert all(field.get("description") for field in schema["properties"].values())
        assert bounded in schema["properties"]
        assert "dsn" not in json.dumps(schema).lower()
    assert issubclass(ConfigurationError, OrganismError)
