"""The dashboard and the alerts: checked by Prometheus's own tools, on what a gateway really tells."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from organism_flows.blocks.queue import Closing, Limit, Queue
from organism_flows.deployments import __file__ as deployments
from organism_flows.flows.lanes.lane import Lane
from organism_flows.serve_apps.gateway.metrics.organ_metrics import Organs
from organism_flows.serve_apps.gateway.organism_link import OrganismByHttp
from tests.support.flows.running_lanes import running, submit, until_settled
from tests.support.gateway.organism_says import organism_says
from tests.support.gateway.running import Gateway
from tests.support.gateway.running import running as gateway_running
from tests.support.scripted_organism import ScriptedOrganism
from tests.support.sql import pool_of
from tests.support.stack import until

pytestmark = pytest.mark.anyio
FOLDER = Path(deployments).parent / "monitoring"
DASHBOARD = json.loads((FOLDER / "organism.json").read_text())
RULES = FOLDER / "organism.rules.yml"
VARIABLES = {"$job": ".+", "$instance": ".+", "$__rate_interval": "1m"}
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
needs_linter = pytest.mark.skipif(
    not shutil.which("dashboard-linter"), reason="Grafana's dashboard-linter is not installed"
)
needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")


def run(*command: object, timeout: float = 60, cwd: Path | None = None) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


promtool = partial(run, "promtool")


def expressions() -> Iterator[tuple[str, str]]:
    """Title of the panel and PromQL of each target, with Grafana's variables filled in."""
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for name, value in VARIABLES.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            yield panel["title"], expression


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """Metrics an expression reads, each with the rest of its selector."""
    yield from re.findall(r"\b(up|organism_\w+)\b(\{[^}]*\})?", expression)


async def starve(queue: Queue) -> None:
    """Add a task that waits for a limit which others have used up, and the others."""
    await queue.operator.set_limit(
        Limit(name="used", kind="rate", types=["starved"], amount=1, period_s=9999)
    )
    await pool_of(queue).execute(
        "INSERT INTO limit_levels (name, key, level, at) VALUES ('used', '', 0, queue_now())"
    )
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, key, status, created_at, run_after, finished_at) "
        "SELECT 'starved', 'other', 'completed', moment, moment, moment "
        "FROM generate_series(1, 50), (SELECT queue_now()) now(moment)"
    )
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, key, created_at, run_after) "
        "SELECT 'starved', 'k', moment, moment FROM (SELECT queue_now() - interval '10 min') long_ago(moment)"
    )


@asynccontextmanager
async def at_work(database: str) -> AsyncIterator[Gateway]:
    """A gateway that has everything to tell: a lane, tasks of every status, an organism."""
    said = {"status": "healthy", "replica": "r1", "organs": {"a": {"in_flight": 1, "waiting": 2}}}
    async with (
        Queue(database, lease_s=1.5, backoff_base_s=3600) as queue,
        gateway_running(database) as gateway,
        organism_says(said, running={"replicas": [{"replica": "r1", **said}]}) as url,
    ):
        gateway.parts.metrics.organs = Organs(OrganismByHttp(lambda: url))
        organism = ScriptedOrganism()
        await queue.operator.set_limit(Limit(name="many", kind="running", by_key=True, amount=1000))
        until = await queue.reader.now() + timedelta(hours=1)
        await queue.operator.close(Closing(kind="limit", name="many", key="closed", until=until))
        await starve(queue)
        await submit(queue, "ok", "ok", "fail", "reject", "hang")
        lane = Lane(queue, organism, grace_s=0.05)
        async with running(lane):
            await until_settled(lane, 4)
            yield gateway


async def test_they_read_only_what_a_gateway_tells(database: str) -> None:
    async with at_work(database) as gateway:
        await gateway.http.get("/metrics")  # requests are told from the second on
        text = (await gateway.http.get("/metrics")).text
    told = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    added = {"job", "instance"}
    read = set()
    for expression in (*(expression for _, expression in expressions()), *alert_expressions()):
        for name, selector in selectors(expression):
            read.add(name)
            assert name == "up" or name in told, f"{name} in {expression} is told by no gateway"
            labels = set(re.findall(r"(\w+)\s*[=!]~?", selector))
            assert labels <= told.get(name, set()) | added, expression
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in read}
    parts = re.compile(r"_(bucket|sum|count|created)$")
    ours = {parts.sub("", name) for name in told if name.startswith("organism_")}
    ours = {name for name in ours if f"{name}_total" not in told}
    assert ours <= bases, f"nobody looks at {ours - bases}"


def alert_expressions() -> list[str]:
    text = re.sub(r">-\n\s+", "", RULES.read_text())
    return re.findall(r"expr: (.*(?:\n {10}\S.*)*)", text)


def test_the_dashboard_is_as_grafana_wants_it() -> None:
    assert (DASHBOARD["uid"], DASHBOARD["editable"]) == ("organism-flows", False)
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another"
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for _, expression in expressions():
        for name, selector in selectors(expression):
            assert 'job=~".+", instance=~".+"' in selector, expression
            if name.endswith(("_total", "_bucket", "_sum", "_count")):
                assert f"rate({name}" in expression or f"increase({name}" in expression, expression


@needs_promtool
def test_prometheus_reads_the_rules_and_they_fire_when_they_should() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    promtool("test", "rules", FOLDER / "organism.rules.test.yml")


@needs_promtool
def test_every_alert_is_tried() -> None:
    tried = (FOLDER / "organism.rules.test.yml").read_text()
    for alert in re.findall(r"alert: (\w+)", RULES.read_text()):
        fires = rf"alertname: {alert}\n\s+exp_alerts:\n\s+- exp_labels"
        assert re.search(fires, tried), f"{alert} is never seen to fire"
        assert re.search(rf"alertname: {alert}}}", tried), f"{alert} is never seen not to fire"


@needs_promtool
def test_prometheus_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"dashboard:{number}", "expr": expression}
        for number, (_, expression) in enumerate(expressions())
    ]
    path = tmp_path / "dashboard.rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", path)


@needs_linter
def test_grafanas_linter_finds_nothing() -> None:
    said = run("dashboard-linter", "lint", "--strict", FOLDER / "organism.json")
    assert "valid PromQL query" in said


@needs_promtool
def test_prometheus_reads_the_configuration(tmp_path: Path) -> None:
    for name in ("prometheus.yml", RULES.name):
        shutil.copy(FOLDER / name, tmp_path)
    promtool("check", "config", "--lint=all", "--lint-fatal", tmp_path / "prometheus.yml")


# A real Prometheus


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[httpx.AsyncClient]:
    """One that scrapes ``target`` every second, and its API."""
    configuration = (FOLDER / "prometheus.yml").read_text()
    configuration = configuration.replace("127.0.0.1:8080", target).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(configuration)
    # Alerts that wait are not to be waited for.
    rules = re.sub(r"\n +for: .*", "", RULES.read_text())
    (folder / RULES.name).write_text(rules)
    log = folder / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            "--web.listen-address=127.0.0.1:0",
            stdout=output,
            stderr=output,
        )
    try:
        found = await until(lambda: re.search(r"Listening on\" address=(\S+)", log.read_text()))
        url = f"http://{found[1]}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as http:
            yield http
    finally:
        process.terminate()
        await process.wait()


async def query(http: httpx.AsyncClient, expression: str) -> list[Any]:
    answer = (await http.get("/api/v1/query", params={"query": expression})).json()
    assert answer["status"] == "success", answer
    found: list[Any] = answer["data"]["result"]
    return found


@pytest.mark.soak
@needs_prometheus
async def test_a_real_prometheus_has_data_for_every_panel_and_an_alert_fires(
    database: str, tmp_path: Path
) -> None:
    async with (
        at_work(database) as gateway,
        prometheus(tmp_path, gateway.url.removeprefix("http://")) as http,
    ):

        async def silent() -> list[str]:
            return [e for _, e in expressions() if not await query(http, e)]

        async def all_speak() -> bool:
            return not await silent()

        try:
            await until(all_speak, patience=30)
        except AssertionError:
            pytest.fail(f"no data for {await silent()}")

        async def firing() -> set[str]:
            alerts = (await http.get("/api/v1/alerts")).json()["data"]["alerts"]
            return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

        assert not await firing() & {"OrganismNoLane", "OrganismPostgresDown", "OrganismGatewayDown"}
        async with Queue(database) as queue:
            await submit(queue, "reject")

            async def dead_letters_told() -> bool:
                return "OrganismDeadLetters" in await firing()

            await until(dead_letters_told, patience=30)
            # Nobody else is to claim: as if the lane had been killed.
            await pool_of(queue).execute("UPDATE lanes SET lease_until = 'epoch'")
            await submit(queue, "ok")

            async def no_lane_told() -> bool:
                return "OrganismNoLane" in await firing()

            await until(no_lane_told, patience=30)


# Grafana's own types

TYPES = """
import type { Dashboard, Panel } from '@grafana/schema';
import type { Options as Stat }
  from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as TimeSeries, FieldConfig }
  from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
// The schema has enums where JSON has their strings and numbers.
type Plain<T> = T extends string ? `${T}` : T extends number ? number : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""


@pytest.mark.soak
@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_grafanas_own_types_take_the_dashboard(tmp_path: Path) -> None:
    node = partial(run, timeout=300, cwd=tmp_path)
    node("npm", "install", "--no-audit", "--no-fund", "@grafana/schema@13.2.3", "typescript@5.9.3")
    panels = DASHBOARD["panels"]
    script = TYPES
    for name, kind, value in (
        ("dashboard", "Omit<Dashboard, 'panels'>", {k: v for k, v in DASHBOARD.items() if k != "panels"}),
        ("panels", "Panel[]", panels),
        ("stats", "Partial<Stat>[]", [p["options"] for p in panels if p["type"] == "stat"]),
        ("graphs", "TimeSeries[]", [p["options"] for p in panels if p["type"] == "timeseries"]),
        ("fields", "FieldConfig[]", [p["fieldConfig"]["defaults"].get("custom", {}) for p in panels]),
    ):
        script += f"export const {name}: Plain<{kind}> = {json.dumps(value)};\n"
    (tmp_path / "dashboard.ts").write_text(script)
    options = ("--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext")
    node("npx", "tsc", "--noEmit", *options, "dashboard.ts")
    (tmp_path / "dashboard.ts").write_text(script.replace('"gridPos"', '"gridPlace"'))
    with pytest.raises(AssertionError, match="gridPlace"):
        node("npx", "tsc", "--noEmit", *options, "dashboard.ts")
