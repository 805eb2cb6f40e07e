"""Applying deployments leaves schedules as people left them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import uuid4

from prefect.cli.deploy._schedules import _schedule_config_to_deployment_schedule
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from ruamel.yaml import YAML

from organism_flows.flows.prefect_support.deployments import prefect_yaml
from organism_flows.flows.prefect_support.schedules import as_left, every

FILE: dict[str, Any] = YAML(typ="safe").load(prefect_yaml().read_text())


def there(flow: str, *schedules: DeploymentSchedule, paused: bool = False) -> dict[str, DeploymentResponse]:
    deployment = DeploymentResponse(
        id=uuid4(), name="organism", flow_id=uuid4(), schedules=list(schedules), paused=paused, labels={}
    )
    return {f"{flow}/organism": deployment}


def of(flow: str, text: str) -> dict[str, Any]:
    """A deployment of a prefect.yaml, as Prefect's own deploy reads it."""
    found = [d for d in YAML(typ="safe").load(text)["deployments"] if d["entrypoint"].endswith(f".{flow}")]
    [deployment] = found
    return dict(deployment)


def test_on_a_server_that_has_none_they_are_as_in_the_file() -> None:
    assert json.loads(as_left(FILE, {})) == FILE


def test_on_and_off_stay() -> None:
    every = IntervalSchedule(interval=timedelta(seconds=300))
    left = as_left(
        FILE, there("dispatch", DeploymentSchedule(schedule=every, active=True, slug="continuous"))
    )
    assert [s["active"] for s in of("dispatch", left)["schedules"]] == [True]
    assert of("verify", left) == of("verify", json.dumps(FILE)), "the others are left alone"
    left = as_left(
        FILE, there("verify", DeploymentSchedule(schedule=every, active=False, slug="every-5-minutes"))
    )
    assert [s["active"] for s in of("verify", left)["schedules"]] == [False]


def test_when_it_fires_is_the_files() -> None:
    hourly = IntervalSchedule(interval=timedelta(hours=1))
    old = DeploymentSchedule(schedule=hourly, active=True, slug="continuous")
    [schedule] = of("dispatch", as_left(FILE, there("dispatch", old)))["schedules"]
    assert schedule["interval"] == 300


def test_a_run_of_the_schedule_gets_the_parameters_of_the_file() -> None:
    schedule = {"slug": "continuous", "interval": 60, "active": False, "parameters": {"relay": True}}
    file = {
        "deployments": [
            {
                "name": "organism",
                "entrypoint": "organism_flows.flows.dispatch.dispatch",
                "schedules": [schedule],
            }
        ]
    }
    # As an older version left it, turned on.
    older = DeploymentSchedule(
        schedule=IntervalSchedule(interval=timedelta(seconds=300)), active=True, slug="continuous"
    )
    [left] = of("dispatch", as_left(file, there("dispatch", older)))["schedules"]
    assert left == {**schedule, "active": True}
    again = _schedule_config_to_deployment_schedule(left)
    assert (every(again["schedule"]), again["parameters"]) == ("every 60 s", {"relay": True})


def test_schedules_that_people_added_stay() -> None:
    added = [
        DeploymentSchedule(schedule=IntervalSchedule(interval=timedelta(seconds=90.5)), active=True),
        DeploymentSchedule(
            schedule=CronSchedule(cron="0 9 * * 1", timezone="Europe/Berlin"),
            active=False,
            parameters={"lanes": 2},
        ),
        DeploymentSchedule(schedule=RRuleSchedule(rrule="FREQ=DAILY;BYHOUR=3"), active=True),
    ]
    schedules = of("submit", as_left(FILE, there("submit", *added)))["schedules"]
    for schedule, before in zip(schedules, added, strict=True):
        again = _schedule_config_to_deployment_schedule(schedule)
        assert again["schedule"] == before.schedule
        assert again["active"] == before.active
        assert again.get("parameters", {}) == before.parameters


def test_a_deployment_that_is_paused_stays_so() -> None:
    assert of("redrive", as_left(FILE, there("redrive", paused=True)))["paused"] is True


def test_one_that_has_another_name_now_stays_off() -> None:
    every = IntervalSchedule(interval=timedelta(seconds=30))
    before = there("watchdog", DeploymentSchedule(schedule=every, active=False, slug="every-30-seconds"))
    [schedule] = of("watchdog", as_left(FILE, before))["schedules"]
    assert (schedule["slug"], schedule["active"]) == ("every-10-minutes", False)
