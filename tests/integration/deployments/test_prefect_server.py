"""The Prefect server of a stack, as its owner, an unprivileged neighbour and a web page reach it."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.events import Event, emit_event
from prefect.events.clients import get_events_subscriber
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessJobConfiguration, ProcessWorker
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from docs.chromium import find_chromium, open_page
from organism_flows.blocks.local_stack.stack_state import read_secret
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack import components, health
from organism_flows.deployments.stack.addresses import plan
from organism_flows.deployments.stack.local import prepare_home
from organism_flows.deployments.stack.state import write_stack
from organism_flows.flows.prefect_support.deployments import JOB_TEMPLATE, WORK_POOL_NAME, _ensure_pool
from tests.support.stack import Stack, prefect_of

pytestmark = pytest.mark.anyio
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which needs root")
HOSTILE = {
    "command": "id",
    "env": {"LD_PRELOAD": "/tmp/x.so"},
    "working_dir": "/tmp",
    "env.PYTHONPATH": "/tmp",
}
NEIGHBOUR = """
import json, pathlib, sys, urllib.request, urllib.error
api, home, server = sys.argv[1:]
answers = {}
def ask(name, path, body=None, **headers):
    request = urllib.request.Request(api + path, body and json.dumps(body).encode(), {
        "Content-Type": "application/json", **headers})
    try:
        answers[name] = urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        answers[name] = error.code
def read(name, path):
    try:
        pathlib.Path(path).read_bytes(); answers[name] = "read"
    except OSError as error:
        answers[name] = type(error).__name__
ask("list", "/deployments/filter", {"limit": 1})
ask("run", "/deployments/00000000-0000-0000-0000-000000000000/create_flow_run",
    {"job_variables": {"command": "id"}})
ask("block", "/block_documents/filter", {"include_secrets": True})
ask("settings", "/admin/settings")
ask("guess", "/deployments/filter", {}, Authorization="Basic b3JnYW5pc206Z3Vlc3M=")
ask("bearer", "/deployments/filter", {}, Authorization="Bearer guess")
read("secret", home + "/prefect-secret"); read("state", home + "/stack.json")
read("database", home + "/prefect/prefect.db"); read("environment", f"/proc/{server}/environ")
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Stack]:
    """The stack's Prefect server alone, started as `organism up` starts it."""
    home = Path(tempfile.mkdtemp(prefix="organism-prefect-"))
    home.chmod(0o711)  # as a home of root's is: the files in it are what is closed
    settings = Settings(home=home)
    stack = Stack(prepare_home(settings))
    state = plan(settings, home, dsn="", previous=None, kept=(), on_note=lambda _role, _line: None)
    child = components.start_prefect(settings, state)
    state.processes["prefect"] = child.ref
    write_stack(state)

    async def ready() -> None:
        async with health.local_client() as client:
            await components.wait_for(
                child, lambda: health.check_prefect(client, state), components.PREFECT_TIMEOUT
            )

    try:
        asyncio.run(ready())
        with prefect_of(state):
            yield stack
    finally:
        child.process.kill()
        child.process.wait()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def api(server: Stack) -> str:
    return server.state.prefect_api_url


@AS_ROOT
async def test_an_unprivileged_neighbour_is_let_into_nothing(server: Stack, api: str) -> None:
    nobody = pwd.getpwnam("games")
    ran = await asyncio.to_thread(
        subprocess.run,
        [
            "/usr/bin/env",
            "python3",
            "-c",
            NEIGHBOUR,
            api,
            str(server.home),
            str(server.state.processes["prefect"].pid),
        ],
        user=nobody.pw_uid,
        group=nobody.pw_gid,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    answers = json.loads(ran.stdout or f'"{ran.stderr}"')
    asked = ("list", "run", "block", "settings", "guess", "bearer")
    assert answers == dict.fromkeys(asked, 401) | dict.fromkeys(
        ("secret", "state", "database", "environment"), "PermissionError"
    )


async def test_no_command_line_shows_the_secret(server: Stack) -> None:
    secret = read_secret(server.state.prefect_secret_path).rpartition(":")[2]
    seen = [path for path in Path("/proc").glob("[0-9]*/cmdline") if secret in _text(path)]
    assert seen == []
    shown = json.dumps(server.run("status", code=1)) + json.dumps(server.run("env"))
    assert secret not in shown
    logs = [path for path in (server.home / "logs").iterdir() if secret in _text(path)]
    assert logs == []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.nip.io", "10.0.0.1", ""])
@pytest.mark.parametrize("path", ["/", "/ui-settings", "/api/health", "/api/deployments/filter"])
async def test_other_hosts_are_refused(server: Stack, host: str, path: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(server.state.prefect_ui_url + path, headers={"Host": host})
    assert (answer.status_code, answer.text) == (400, "Invalid host header")


async def preflight(api: str, origin: str) -> httpx.Response:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    headers["Access-Control-Request-Headers"] = "authorization,content-type"
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.options(f"{api}/flow_runs/filter", headers=headers)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://localhost"])
async def test_pages_of_other_sites_are_let_into_nothing(api: str, origin: str) -> None:
    answer = await preflight(api, origin)
    assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (400, None)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_the_ui_is_let_in_under_both_names_of_loopback(api: str, name: str) -> None:
    origin = api.removesuffix("/api").replace("127.0.0.1", name)
    answer = await preflight(api, origin)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
@pytest.mark.parametrize("token", [None, "guess"])
async def test_sockets_ask_for_the_secret(api: str, path: str, token: str | None) -> None:
    url = f"{api.replace('http', 'ws')}/{path}"
    async with connect(url, subprotocols=[Subprotocol("prefect")], proxy=None) as socket:
        with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012
            await socket.send(json.dumps({"type": "auth", "token": token}))
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


async def test_events_arrive(server: Stack) -> None:
    wanted = EventFilter(event=EventNameFilter(name=["organism.test.arrived"]))
    async with get_events_subscriber(filter=wanted) as subscriber:
        emit_event("organism.test.arrived", resource={"prefect.resource.id": "organism.test"})
        event: Event = await asyncio.wait_for(anext(aiter(subscriber)), 60)
    assert event.resource.id == "organism.test"


async def taken(template: dict[str, Any]) -> dict[str, Any]:
    values = {**HOSTILE, "name": "n"}
    # A client of nothing: without one Prefect would start a server of its own.
    client = cast("PrefectClient", object())
    job: Any = await ProcessJobConfiguration.from_template_and_values(template, values, client=client)
    return {"command": job.command, "env": job.env, "working_dir": job.working_dir}


async def test_a_run_decides_no_command_environment_or_folder() -> None:
    assert await taken(JOB_TEMPLATE) == {"command": None, "env": {}, "working_dir": None}
    assert (await taken(ProcessWorker.get_default_base_job_template()))["command"] == "id", "without ours"


@pytest.mark.soak
async def test_a_pool_of_an_older_version_is_closed_and_refuses(server: Stack) -> None:
    async with get_client() as client:
        template = ProcessWorker.get_default_base_job_template()
        try:
            await client.update_work_pool(WORK_POOL_NAME, WorkPoolUpdate(base_job_template=template))
        except ObjectNotFound:
            await client.create_work_pool(
                WorkPoolCreate(name=WORK_POOL_NAME, type="process", base_job_template=template)
            )
        assert await _ensure_pool() is False
        assert (await client.read_work_pool(WORK_POOL_NAME)).base_job_template == JOB_TEMPLATE
    found = await asyncio.to_thread(server.run, "deploy")
    assert "dispatch/organism" in found["deployments"]
    async with httpx.AsyncClient(trust_env=False) as http:
        url = f"{server.prefect_api}/deployments/name/watchdog/organism"
        deployment = (await http.get(url)).raise_for_status().json()["id"]
        for name, value in HOSTILE.items():
            answer = await http.post(
                f"{server.prefect_api}/deployments/{deployment}/create_flow_run",
                json={"job_variables": {name: value}, "state": {"type": "SCHEDULED"}},
            )
            assert answer.status_code == 422, answer.text
            assert name in answer.text


@pytest.mark.skipif(not find_chromium(), reason="no Chromium on the PATH")
@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
async def test_a_person_signs_in_once(server: Stack, name: str, tmp_path: Path) -> None:
    await Organism.ensure_registered()
    shown = server.run("ui")
    url = shown["url"].replace("127.0.0.1", name)
    async with open_page(find_chromium() or "") as page:
        await page.go(url)
        await page.until(
            "document.querySelector('input[type=password]')?.focus() === undefined"
            " && document.activeElement.type === 'password'"
        )
        await page.type("guess")
        await page.until("document.body.innerText.includes('Invalid credentials')")
        await page.go(url)
        await page.until(
            "document.querySelector('input[type=password]')?.focus() === undefined"
            " && document.activeElement.type === 'password'"
        )
        await page.type(shown["password"])
        # The dashboard of a server that has runs, or of one that has none yet.
        await page.until("/Flow Runs|Run a task or flow to get started/.test(document.body.innerText)")
        for path, text in {"/v2/blocks": "Organism", "/blocks": "Organism", "/events": "Event Feed"}.items():
            await page.go(url + path)
            await page.until(f"document.body.innerText.includes({text!r})")
            assert "login" not in await page.evaluate("location.href")
