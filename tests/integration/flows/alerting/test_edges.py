"""What is reported of an alert, and when; and what the checks find in a real queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from organism_flows.blocks.errors import ConfigurationError, OrganismError
from organism_flows.blocks.finding import Finding, FindingStatus
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.flows.alerting import automations, checks
from organism_flows.flows.alerting.notify import notify_about_verification
from organism_flows.flows.alerting.transitions import AlertFinding, LastNotification, next_step
from organism_flows.flows.verification.verification import Verification
from tests.support.clock import START, advance, set_clock
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
STATUS: dict[bool | None, FindingStatus] = {True: "failed", None: "degraded", False: "ok"}


@given(
    found=st.lists(
        st.tuples(st.sampled_from([True, True, False, None]), st.integers(1, 100)), min_size=20, max_size=40
    ),
    patience_s=st.sampled_from([0.0, 150.0]),
)
def test_an_alert_is_raised_once_and_cleared_once(
    found: list[tuple[bool | None, int]], patience_s: float
) -> None:
    last: LastNotification | None = None
    now = MOMENT
    raised = False
    wrong_since: datetime | None = None
    for wrong, seconds in found:
        now += timedelta(seconds=seconds)
        finding = AlertFinding(check="verify", status=STATUS[wrong], evidence="", patience_s=patience_s)
        step = next_step(finding, last, now)
        if step is not None:
            keeps = last is not None and last.step in ("pending", "raised")
            last = LastNotification(step, last.since if keeps and last else now, "", now)
        if wrong is False:
            assert step == ("cleared" if raised else "passed" if wrong_since else None)
            raised, wrong_since = False, None
        elif raised:
            assert step is None, "reported once"
        elif wrong is True:
            wrong_since = wrong_since or now
            due = (now - wrong_since).total_seconds() >= patience_s
            raised = due
            assert step == "raised" if due else step in ("pending", None)
        else:
            assert step is None
        if raised:
            assert last is not None
            assert last.since == wrong_since, "it has been so since it was first seen"


async def test_dead_letters_are_too_many_above_the_limit_and_well_again_below_it(queue: Queue) -> None:
    add = "INSERT INTO tasks (type, status, finished_at) VALUES ('t', 'failed', now())"
    for count in range(11):
        found = await checks.dead_letters(queue, 10)
        assert (found.status, found.figures["dead_letters"]) == ("ok" if count <= 9 else "degraded", count)
        await pool_of(queue).execute(add)
    found = await checks.dead_letters(queue, 10)
    assert found.status == "failed"
    assert found.evidence == "11 tasks have failed for good, the limit is 10"
    assert (await checks.dead_letters(queue, 0)).status == "failed"


async def test_a_task_is_old_by_how_long_it_has_been_ready(queue: Queue) -> None:
    await set_clock(queue, START)
    assert (await checks.oldest_ready(queue, 60)).ok
    await queue.submit([NewTask(type="t", run_after=START + timedelta(seconds=1000))])
    await advance(queue, 1050)
    assert (await checks.oldest_ready(queue, 60)).ok
    await queue.operator.pause("type", "t", reason="x")
    await advance(queue, 11)
    found = await checks.oldest_ready(queue, 60)
    assert found.status == "failed"
    assert found.evidence == (
        "the oldest ready task has waited for 61 s, the limit is 60 s (t: 1 ready); paused: type t"
    )


async def test_tasks_are_interrupted_too_often_from_the_third_time_on(queue: Queue) -> None:
    await queue.submit([NewTask(type="t")] * 2)
    for wrong in (False, False, True):
        batch = await claim(queue)
        await queue.claims.release("lane", batch, cause="interrupted", error="the lane stopped")
        assert (await checks.interrupted(queue, 0)).status == STATUS[wrong]
    found = await checks.interrupted(queue, 0)
    assert found.evidence.startswith(
        "unfinished tasks that were interrupted more than twice: 2, the limit is 0 (t "
    )
    assert found.evidence.count(": 3 times") == 2
    assert found.figures == {"interrupted": 2, "limit": 0}
    assert "--max-interruptions" in found.action
    assert [(await checks.interrupted(queue, limit)).status for limit in (1, 2, 3)] == [
        "failed",
        "degraded",
        "ok",
    ]
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
    assert (await checks.interrupted(queue, 0)).ok, "they have ended"


def test_only_a_failed_check_is_an_alert() -> None:
    well = Finding(check="a", status="degraded", evidence="slow", action="wait")
    assert checks.verification(Verification(findings=[well])).ok
    broken = Finding(check="ray", status="failed", evidence="no\nanswer", action="start it")
    found = checks.verification(Verification(findings=[well, broken]))
    assert (found.status, found.evidence, found.action) == ("failed", "ray: no answer", "start it")


def test_dispatch_is_missing_only_when_it_is_due() -> None:
    assert [checks.dispatch(lanes, due, 120).ok for lanes in (0, 1) for due in (False, True)] == [
        True,
        False,
        True,
        True,
    ]


async def test_without_a_prefect_server_it_is_one_line_and_no_flow_fails() -> None:
    with (
        temporary_settings({PREFECT_API_URL: None}),
        pytest.raises(ConfigurationError, match="PREFECT_API_URL is not set"),
    ):
        await automations.state()
    away: Any = {PREFECT_API_URL: "http://127.0.0.1:1/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away):
        with pytest.raises(
            OrganismError, match=r"the Prefect server at http://127.0.0.1:1/api does not answer"
        ):
            await automations.apply("slack-webhook/ops")
        notified = await notify_about_verification(Verification(findings=[]), "default")
    assert notified.reported == []
    assert (notified.trouble or "").startswith(
        "no alerts: the Prefect server at http://127.0.0.1:1/api does not"
    )
