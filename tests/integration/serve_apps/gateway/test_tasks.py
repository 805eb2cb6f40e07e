"""Submitting tasks and looking at them, over a real socket and a real Postgres."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from organism_flows.blocks.queue import NewTask, Queue
from tests.support.gateway.running import Gateway, running
from tests.support.queue.helpers import claim, outcomes_of
from tests.support.scripted_organism import ScriptedOrganism

pytestmark = pytest.mark.anyio


async def test_a_task_goes_in_and_is_shown(gateway: Gateway, queue: Queue) -> None:
    answer = await gateway.http.post("/api/tasks", json={"type": "echo", "params": {"n": 1}})
    assert answer.status_code == 201
    [submitted] = answer.json()["tasks"]
    assert answer.headers["location"] == f"/api/tasks/{submitted['id']}"
    shown = (await gateway.http.get(answer.headers["location"])).json()
    assert (shown["type"], shown["params"], shown["status"]) == ("echo", {"n": 1}, "queued")
    assert (await claim(queue)).ids == [submitted["id"]]


async def test_every_field_arrives(gateway: Gateway) -> None:
    full = {
        "type": "t", "params": {"n": [1, None, "é"]}, "description": "d", "domain": "x", "drift_score": 0.5,
        "priority": -3, "run_after": "2040-01-01T02:00:00+02:00", "max_attempts": 2, "timeout_s": 1.5,
        "dedup_key": "k", "id": str(uuid4()),
    }  # fmt: skip
    [task_id] = await gateway.submit(full)
    shown = (await gateway.http.get(f"/api/tasks/{task_id}")).json()
    assert {**full, "run_after": "2040-01-01T00:00:00Z"}.items() <= shown.items()


async def test_a_moment_without_a_zone_is_utc(gateway: Gateway) -> None:
    [task_id] = await gateway.submit({"type": "t", "run_after": "2040-01-01T00:00:00"})
    shown = (await gateway.http.get(f"/api/tasks/{task_id}")).json()
    assert shown["run_after"] == "2040-01-01T00:00:00Z"


async def test_several_go_in_together_or_not_at_all(gateway: Gateway, queue: Queue) -> None:
    ids = await gateway.submit({"type": "a"}, {"type": "b"}, {"type": "c"})
    assert [(await queue.get(i)).type for i in ids] == ["a", "b", "c"]
    answer = await gateway.http.post("/api/tasks", json=[{"type": "d"}, {"type": ""}])
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["body.1.type"]
    answer = await gateway.http.post("/api/tasks", json=[{"type": "d"}, {"type": "e", "id": ids[0]}])
    assert (answer.status_code, answer.json()["type"]) == (409, "urn:organism:already-submitted")
    assert ids[0] in answer.json()["detail"]
    assert (await queue.reader.counts())["queued"] == 3


async def test_a_deduplicated_task_says_so(gateway: Gateway, queue: Queue) -> None:
    keyed = {"type": "t", "dedup_key": "k"}
    answer = await gateway.http.post("/api/tasks", json=[keyed, {"type": "t"}, keyed])
    first, other, second = answer.json()["tasks"]
    assert answer.json()["added"] == 2
    assert (first["deduplicated"], other["deduplicated"], second["deduplicated"]) == (False, False, True)
    assert first["id"] == second["id"]
    again = await gateway.http.post("/api/tasks", json=keyed)
    assert (again.status_code, again.json()["added"]) == (200, 0)
    assert again.json()["tasks"] == [{"id": first["id"], "deduplicated": True}]
    assert (await queue.reader.counts())["queued"] == 2


async def test_a_task_that_is_not_to_run_yet_does_not(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit({"type": "t", "run_immediately": False})
    assert len(await claim(queue)) == 0
    answer = (await gateway.http.post(f"/api/tasks/{task_id}/run")).json()
    assert answer == {"id": task_id, "outcome": "queued", "status": "queued"}
    assert (await claim(queue)).ids == [task_id]


async def test_results_and_params_are_exact(gateway: Gateway, queue: Queue) -> None:
    deep: Any = 0
    for _ in range(240):
        deep = {"d": deep}
    params = {"big": 2**70, "text": "\u2028\U0001f600", "deep": deep, "tiny": 5e-324}
    [task_id] = await gateway.submit({"type": "t", "params": params})
    batch = await claim(queue)
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result=str(10**30)))
    shown = (await gateway.http.get(f"/api/tasks/{task_id}")).json()
    assert shown["params"] == params
    assert shown["result"] == 10**30


# Ids


async def test_a_task_is_found_by_the_beginning_of_its_id(gateway: Gateway) -> None:
    [task_id] = await gateway.submit()
    bare = task_id.replace("-", "")
    for name in (task_id, task_id.upper(), bare, task_id[:20], bare[:20]):
        assert (await gateway.http.get(f"/api/tasks/{name}/status")).json()["id"] == task_id


async def test_an_ambiguous_prefix_lists_its_candidates(gateway: Gateway) -> None:
    ids = [f"abcdef00-0000-4000-8000-00000000000{n}" for n in range(3)]
    await gateway.submit(*({"type": "t", "id": i} for i in ids))
    looks = [("GET", path) for path in ("", "/status", "/why", "/wait", "/events")]
    for method, path in [*looks, ("POST", "/cancel"), ("POST", "/run"), ("POST", "/retry")]:
        answer = await gateway.http.request(method, f"/api/tasks/abcdef{path}")
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:organism:ambiguous-id"), path
        assert answer.json()["candidates"] == ids
    assert (await gateway.http.get(f"/api/tasks/{ids[1]}")).json()["id"] == ids[1]


@pytest.mark.parametrize("path", ["", "/status", "/why", "/wait", "/events"])
async def test_an_unknown_task_is_not_found(gateway: Gateway, path: str) -> None:
    answer = await gateway.http.get(f"/api/tasks/{uuid4()}{path}")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:organism:not-found")
    answer = await gateway.http.get(f"/api/tasks/not-an-id{path}")
    assert answer.status_code == 422
    assert "not-an-id" in answer.json()["detail"]


# Lists


async def pages(
    gateway: Gateway, *, meanwhile: Callable[[], Awaitable[None]] | None = None, **query: Any
) -> list[list[str]]:
    """Ids of all pages, with something done between each two."""
    found: list[list[str]] = []
    while True:
        if found and meanwhile:
            await meanwhile()
        answer = await gateway.http.get("/api/tasks", params=query)
        assert answer.status_code == 200, answer.text
        found.append([task["id"] for task in answer.json()["tasks"]])
        if answer.json()["next"] is None:
            return found
        query["cursor"] = answer.json()["next"]


async def test_pages_show_the_newest_first_and_each_once(gateway: Gateway) -> None:
    ids = await gateway.submit(*({"type": "t"} for _ in range(10)))
    assert await pages(gateway) == [ids[::-1]]
    assert await pages(gateway, limit=5) == [ids[:4:-1], ids[4::-1]]
    assert await pages(gateway, limit=3) == [ids[:6:-1], ids[6:3:-1], ids[3:0:-1], ids[:1]]


async def test_pages_skip_and_repeat_nothing_while_tasks_are_added_and_settled(
    gateway: Gateway, queue: Queue
) -> None:
    ids = {str(i) for i in await queue.submit([NewTask(type="t") for _ in range(200)])}

    async def disturb() -> None:
        # Ids anywhere among the others, too: those a user chose.
        await queue.submit([NewTask(type="t"), NewTask(type="t", id=uuid4()), NewTask(type="u")])
        batch = await claim(queue, limit=7)
        await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))

    for _ in range(3):
        found = await pages(gateway, meanwhile=disturb, limit=7, type="t")
        seen = [i for page in found for i in page]
        assert len(found) > 200 / 7
        assert len(seen) == len(set(seen))
        assert ids <= set(seen)


async def test_filters(gateway: Gateway, queue: Queue) -> None:
    a, b, c = await gateway.submit(
        {"type": "t", "domain": "x"}, {"type": "t", "domain": "y"}, {"type": "u", "run_immediately": False}
    )
    batch = await claim(queue)
    failed = batch.take([batch.ids.index(a)])
    await queue.claims.settle("lane", failed, outcomes_of(failed, "rejected", error="No Such Column: 100%"))
    moment = (await queue.get(b)).created_at

    async def found(**query: Any) -> set[str]:
        return {i for page in await pages(gateway, **query) for i in page}

    assert await found() == {a, b, c}
    assert await found(status="failed") == {a}
    assert await found(status=["running", "created"]) == {b, c}
    assert await found(type="t") == {a, b}
    assert await found(domain="y") == {b}
    assert await found(type="t", domain="nowhere") == set()
    assert await found(error="such column: 100%") == {a}
    assert await found(error="%") == {a}, "text, not a pattern"
    assert await found(error="_") == set()
    assert await found(created_since=moment.isoformat()) == {a, b, c}
    assert await found(created_since=(moment + timedelta(seconds=1)).isoformat()) == set()
    assert await found(created_until=moment.isoformat()) == set()
    assert await found(created_until=(moment + timedelta(days=1)).isoformat()) == {a, b, c}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"status": "lost"}, "query.status.0"),
        ({"limit": 0}, "query.limit"),
        ({"limit": 501}, "query.limit"),
        ({"limit": "9" * 5000}, "query.limit"),
        ({"type": "a\x00"}, "query.type"),
        ({"type": "a" * 201}, "query.type"),
        ({"cursor": "nonsense"}, "query.cursor"),
        ({"cursor": "é"}, "query.cursor"),
        ({"cursor": ""}, "query.cursor"),
        ({"created_since": "yesterday"}, "query.created_since"),
        ({"created_since": "0001-01-01T00:00:00+14:00"}, "query.created_since"),
        ({"created_since": "9" * 300}, "query.created_since"),
        ({"colour": "red"}, "query.colour"),
    ],
)
async def test_bad_filters_are_named(gateway: Gateway, query: dict[str, Any], field: str) -> None:
    answer = await gateway.http.get("/api/tasks", params=query)
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:organism:invalid"), answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [field]


async def test_status_is_short(gateway: Gateway, queue: Queue) -> None:
    [task_id] = await gateway.submit()
    batch = await claim(queue)
    assert (await gateway.http.get(f"/api/tasks/{task_id}/status")).json() == {
        "id": task_id, "status": "running", "finished": False, "attempts": 1, "cancel_requested": False,
        "lane": "lane", "fraction": None, "note": None,
    }  # fmt: skip
    await queue.claims.settle("lane", batch, outcomes_of(batch, "completed", result="1"))
    assert (await gateway.http.get(f"/api/tasks/{task_id}/status")).json()["finished"]
    assert UUID(task_id)


async def test_why_is_told_with_the_organisms_types(gateway: Gateway, database: str) -> None:
    async with running(database, organism=ScriptedOrganism(types=["known"])) as other:
        known, unknown = await other.submit({"type": "known"}, {"type": "unknown"})
        assert (await other.http.get(f"/api/tasks/{unknown}/why")).json()["reason"] == "no_organ"
        assert (await other.http.get(f"/api/tasks/{known}/why")).json()["reason"] == "no_lane"
    answer = (await gateway.http.get(f"/api/tasks/{unknown}/why")).json()
    assert answer["reason"] == "no_lane", "which types there are is not known here"
    assert unknown in answer["sentence"]
