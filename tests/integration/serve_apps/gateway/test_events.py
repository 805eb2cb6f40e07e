"""Events of tasks over HTTP, and the links by which people send them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from organism_flows import Client
from organism_flows.blocks.errors import GatewayError
from organism_flows.blocks.queue import NewTask, Queue
from organism_flows.blocks.snooze import Snooze
from organism_flows.deployments.cli import main as cli
from organism_flows.serve_apps.gateway.http.answer_links import LinkSigner
from tests.support.clock import START, advance, set_clock
from tests.support.gateway.problems import check_problem
from tests.support.gateway.running import Gateway, running, token_file
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio
TOKENS = {"read": "can-read", "submit": "can-submit-to-queue", "operate": "can-operate"}


@pytest.fixture
async def guarded(database: str, tmp_path: Path) -> AsyncIterator[Gateway]:
    """A gateway that asks for tokens and has a key for links."""
    tokens = token_file(tmp_path, **TOKENS)
    async with running(
        database, gateway_tokens=tokens, link_key="k" * 32, token="can-submit-to-queue"
    ) as gateway:
        yield gateway


async def waiting(queue: Queue, **task: str) -> str:
    """Id of a task that waits for an approval."""
    await set_clock(queue, START)
    await queue.submit([NewTask(type="refund", **task)])
    batch = await claim(queue)
    asked = Snooze(event="approval").to_json()
    await queue.claims.settle("lane", batch, outcomes_of(batch, "snoozed", result=asked, error="waits"))
    return batch.ids[0]


async def test_an_event_resumes_the_task_that_waits_for_it(guarded: Gateway, queue: Queue) -> None:
    task_id = await waiting(queue)
    read = {"authorization": "Bearer can-read"}
    task = (await guarded.http.get(f"/api/tasks/{task_id}", headers=read)).json()
    assert (task["status"], task["waits_for"]["event"]) == ("waiting", "approval")
    refused = await guarded.http.post(f"/api/tasks/{task_id}/events/approval", headers=read)
    assert check_problem(refused).status == 403
    large = {f"key {number}": number for number in range(200)}
    async with Client(guarded.url, token="can-submit-to-queue") as client:
        assert (await client.send_event(task_id, "other")).outcome == "kept"
        sent = await client.send_event(task_id[:12], "approval", large)
        assert (str(sent.id), sent.outcome, sent.status) == (task_id, "resumed", "queued")
        assert (await client.send_event(task_id, "approval", {})).outcome == "duplicate"
        for name, payload, status in (("a b", None, 422), ("x", ["a\0"], 422), ("x", "a" * 300_000, 422)):
            with pytest.raises(GatewayError) as refusal:
                await client.send_event(task_id, name, payload)
            assert refusal.value.problem.status == status
        with pytest.raises(GatewayError, match="no task has the id"):
            await client.send_event(uuid4(), "approval")
    batch = await claim(queue)
    assert batch.waits[batch.claims[0]].payload is not None
    assert '"key 199": 199' in (batch.waits[batch.claims[0]].payload or "")
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
    ended = await guarded.http.post(f"/api/tasks/{task_id}/events/late")
    assert check_problem(ended).status == 409
    assert f"task {task_id} is completed and takes no more events" in ended.text


async def test_a_person_answers_by_a_link_once(guarded: Gateway, queue: Queue) -> None:
    task_id = await waiting(queue, description="Refund <b>40 €</b>?")
    async with Client(guarded.url, token="can-submit-to-queue") as client:
        made = await client.answer_links(task_id, "approval")
    assert list(made.links) == ["approve", "reject"]
    async with httpx.AsyncClient(trust_env=False) as person:
        for _ in range(2):  # a preview of a mail program is no answer
            page = await person.get(made.links["approve"])
            assert page.status_code == 200
            assert "<button>approve</button>" in page.text
            assert "Refund &lt;b&gt;40 €&lt;/b&gt;?" in page.text
            policy = page.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; style-src 'sha256-")
            assert policy.endswith("; frame-ancestors 'none'")
            assert page.headers["cache-control"] == "no-store"
        assert (await queue.get(task_id)).status == "waiting"
        form = {"content-type": "application/x-www-form-urlencoded"}
        done = await person.post(made.links["approve"], headers={**form, "origin": guarded.url})
        assert (done.status_code, "Your answer is recorded: approve" in done.text) == (200, True)
        for link in made.links.values():
            for method in ("GET", "POST"):
                again = await person.request(method, link, headers=form)
                assert (again.status_code, "answered already" in again.text) == (409, True)
    batch = await claim(queue)
    assert batch.waits[batch.claims[0]].payload == '{"choice": "approve"}'


async def test_the_command_line_makes_links(
    guarded: Gateway, queue: Queue, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task_id = await waiting(queue)
    monkeypatch.setenv("ORGANISM_GATEWAY_URL", guarded.url)
    monkeypatch.setenv("ORGANISM_TOKEN", "can-submit-to-queue")

    async def link(*choices: str) -> str:
        words = ["tasks", "link", task_id[:14], "approval", *choices]
        command, bound, _ = cli.build().parse_args(words, exit_on_error=False, print_error=False)
        await command(*bound.args, **bound.kwargs)
        return capsys.readouterr().out

    made = json.loads(await link("--choice", "yes", "--choice", "no", "--expires-in", "60", "--json"))
    assert (made["id"], list(made["links"])) == (task_id, ["yes", "no"])
    assert datetime.fromisoformat(made["expires_at"]) == START + timedelta(seconds=60)
    approve, reject, until = (await link()).splitlines()
    assert approve.startswith(f"approve  {guarded.url}/answers/")
    assert reject.startswith(f"reject   {guarded.url}/answers/")
    assert until == f"valid until {START + timedelta(days=7):%Y-%m-%d %H:%M:%S} UTC; the first answer counts"
    async with httpx.AsyncClient(trust_env=False) as person:
        done = await person.post(made["links"]["yes"])
    assert (done.status_code, (await queue.get(task_id)).status) == (200, "queued")
    with pytest.raises(GatewayError, match=r"choices\.0"):
        await link("--choice", "a b")


async def test_a_link_that_is_no_good_says_why(guarded: Gateway, queue: Queue) -> None:
    task_id = await waiting(queue)
    async with Client(guarded.url, token="can-submit-to-queue") as client:
        made = await client.answer_links(task_id, "approval", choices=["yes"], expires_in_s=60)
        signer = guarded.parts.links
        assert signer is not None
        base, _, link = made.links["yes"].rpartition("/")
        answer = signer.read(link)
        assert answer is not None
        forged = LinkSigner("another key of this length").sign(answer)
        content, _, mac = link.partition(".")
        changed = f"{content[:-4]}{'AAAA' if content[-4:] != 'AAAA' else 'BBBB'}.{mac}"
        async with httpx.AsyncClient(trust_env=False) as person:
            for bad in (forged, changed, content, f"{content}.", f".{mac}", "x", "é", "x" * 5000, f"{link}x"):
                for method in ("GET", "POST"):
                    page = await person.request(method, f"{base}/{bad}")
                    assert (page.status_code, "is not valid" in page.text) == (404, True), bad
            assert (await queue.get(task_id)).status == "waiting"
            await advance(queue, 60)
            for method in ("GET", "POST"):
                page = await person.request(method, made.links["yes"])
                assert (page.status_code, "has expired" in page.text) == (410, True)
            later = (await client.answer_links(task_id, "approval", choices=["yes"])).links["yes"]
            await queue.operator.cancel([(await queue.get(task_id)).id])
            page = await person.post(later)
            assert (page.status_code, "is cancelled and takes no more events" in page.text) == (409, True)
            with pytest.raises(GatewayError, match="is cancelled and takes no more events"):
                await client.answer_links(task_id, "approval")
            await pool_of(queue).execute("DELETE FROM tasks")
            for method in ("GET", "POST"):
                page = await person.request(method, later)
                assert (page.status_code, "no longer there" in page.text) == (410, True)


async def test_without_a_key_there_are_no_links(database: str, tmp_path: Path) -> None:
    async with running(database, home=tmp_path) as gateway:
        [task_id] = await gateway.submit()
        answer = await gateway.http.post(f"/api/tasks/{task_id}/links/approval")
        assert check_problem(answer).status == 409
        assert answer.json()["next_step"] == "set ORGANISM_LINK_KEY"
        assert (await gateway.http.get("/answers/x")).status_code == 404
