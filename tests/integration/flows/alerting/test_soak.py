"""Alerts of a stack that is operated: made by bootstrap, told of what its own worker's runs meet."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.client.schemas.sorting import ArtifactSort

from organism_flows.flows.alerting import automations
from tests.support.flows.prefect_command import prefect
from tests.support.flows.receiver import TO, Receiver
from tests.support.stack import Stack, prefect_of, until

pytestmark = [pytest.mark.anyio, pytest.mark.stack("own"), pytest.mark.soak]
MISSING = 150.0 + 60.0
"""Seconds: two minutes, two looks of the watchdog, and what starting its runs takes."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def operated() -> Iterator[Stack]:
    """A stack of its own, with a worker, pointed at by this process."""
    home = Path(tempfile.mkdtemp(prefix="organism-alerts-"))
    home.chmod(0o711)
    stack = Stack(home)
    stack.env |= {"ORGANISM_WORKER": "true", "ORGANISM_ALERTS": TO}
    try:
        stack.run("up")
        with prefect_of(stack.state):
            yield stack
    finally:
        stack.run("down")
        shutil.rmtree(home, ignore_errors=True)


async def bootstrap(stack: Stack) -> tuple[str, str]:
    """Run it as people do; what its page says of alerts."""
    ran = await asyncio.to_thread(
        prefect, stack, "deployment", "run", "bootstrap/organism", "-p", "canary=false", "--watch"
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    keyed = ArtifactFilter(key=ArtifactFilterKey(any_=["bootstrap-steps"]))
    async with get_client() as client:
        [page] = await client.read_artifacts(artifact_filter=keyed, sort=ArtifactSort.CREATED_DESC, limit=1)
    assert isinstance(page.data, str)
    [row] = [line for line in page.data.splitlines() if line.startswith("| alerts |")]
    _, _, what, found, _ = row.split("|")
    return what.strip(), found.strip()


def process_of(run: str) -> psutil.Process | None:
    """The process a flow run runs in."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT__FLOW_RUN_ID") == run:
                return process
        except psutil.Error:
            continue
    return None


async def test_two_minutes_without_dispatch_are_told_and_their_end(
    operated: Stack, receiver: Receiver
) -> None:
    assert operated.run("alerts") == {"alerts": []}
    what, found = await bootstrap(operated)
    assert (what, found.startswith(f"no alerts: there is no block {TO}")) == ("right", True)
    await receiver.save_block()
    assert await bootstrap(operated) == ("changed", f"6 made, 6 alerts to {TO}")
    assert len(operated.run("alerts")["alerts"]) == 6
    applied = await automations.apply(None, silence=timedelta(seconds=75))
    assert applied.changed == ["organism: watchdog silent"]

    async with get_client() as client:
        deployment = await client.read_deployment_by_name("dispatch/organism")
        run = (await client.create_flow_run_from_deployment(deployment.id)).id

        async def lanes() -> bool:
            return (await client.read_flow_run(run)).state_type == StateType.RUNNING

        await until(lanes)
        process = await until(lambda: process_of(str(run)))
        process.send_signal(signal.SIGKILL)
        await receiver.next("organism: dispatch Crashed", patience=90)

        broken = DeploymentUpdate(parameters={**deployment.parameters, "cluster": "nowhere"})
        await client.update_deployment(deployment.id, broken)
        [schedule] = deployment.schedules
        every = IntervalSchedule(interval=timedelta(seconds=20))
        await client.update_deployment_schedule(deployment.id, schedule.id, active=True, schedule=every)
        missing = await receiver.next("dispatch missing alert", patience=MISSING)
        assert "no lane has claimed for 120 s" in missing
        mended = DeploymentUpdate(parameters=deployment.parameters)
        await client.update_deployment(deployment.id, mended)
        await receiver.next("dispatch missing well again", patience=120)

    os.kill(operated.state.processes["worker"].pid, signal.SIGKILL)
    assert "no watchdog has checked the queue since" in await receiver.next("silent", patience=180)
    told = [message["subject"] for message in receiver.messages if "verify" not in message["subject"]]
    assert told == [], "nothing was said twice"
    assert len(operated.run("alerts", "off")["removed"]) == 6
