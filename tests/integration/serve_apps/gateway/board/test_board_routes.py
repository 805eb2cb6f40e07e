"""What the board reads and does over HTTP: sessions, the overview, failures, types, the audit."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.stores.board import PATTERN_LIMIT, like_pattern
from organism_flows.serve_apps.gateway.board.organism import OrganismWatch
from organism_flows.serve_apps.gateway.board.overview import Overviews
from organism_flows.serve_apps.gateway.board.throughput import Sample, ThroughputRecorder
from organism_flows.serve_apps.gateway.database import Database
from organism_flows.serve_apps.gateway.organism_link import Coordinator
from tests.support.gateway.problems import check_problem
from tests.support.gateway.running import Gateway, running, token_file
from tests.support.gateway.story import HOSTILE, ServingOrganism, fill

pytestmark = pytest.mark.anyio

TOKENS = {"read": "may-read", "operate": "may-operate"}


def origin(gateway: Gateway) -> dict[str, str]:
    return {"origin": gateway.url}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def sign_in(gateway: Gateway, **given: str) -> httpx.Response:
    return await gateway.http.post("/api/session", json=given, headers=origin(gateway))


# Sessions


async def test_a_session_stands_for_its_token_and_shows_it_to_nobody(database: str, tmp_path: Path) -> None:
    async with running(database, gateway_tokens=token_file(tmp_path, **TOKENS)) as gateway:
        assert check_problem(await gateway.http.get("/api/session")).status == 401
        for wrong in ({"token": "wrong"}, {"code": "wrong"}):
            refused = await sign_in(gateway, **wrong)
            assert check_problem(refused).status == 401
            assert "set-cookie" not in refused.headers
        for nonsense in ({}, {"token": "a", "code": "b"}, {"token": ""}):
            assert check_problem(await sign_in(gateway, **nonsense)).status == 422
        signed_in = await sign_in(gateway, token="may-operate")
        assert signed_in.json()["scope"] == "operate"
        cookie = signed_in.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert "may-operate" not in cookie
        assert gateway.url.rpartition(":")[2] in cookie.partition("=")[0], "ports share cookies"
        assert (await gateway.http.get("/api/session")).json()["scope"] == "operate"
        out = await gateway.http.post("/api/session/sign-out", json={}, headers=origin(gateway))
        assert out.json() == {"ended": True}
        gateway.http.cookies.clear()
        stolen = {"cookie": cookie.partition(";")[0]}
        assert (await gateway.http.get("/api/session", headers=stolen)).status_code == 401


async def test_a_session_changes_something_only_from_our_own_page(database: str, tmp_path: Path) -> None:
    async with running(database, gateway_tokens=token_file(tmp_path, **TOKENS)) as gateway:
        await sign_in(gateway, token="may-operate")
        body = {"kind": "type", "name": "t"}
        other_port = {"origin": "http://127.0.0.1:9", "sec-fetch-site": "same-site"}
        for headers, status in (
            ({}, 401),
            (other_port, 403),
            ({"origin": "http://evil.example"}, 403),
            ({**origin(gateway), "sec-fetch-site": "same-site"}, 401),
            ({**origin(gateway), "sec-fetch-site": "same-origin"}, 200),
        ):
            answer = await gateway.http.post("/api/pauses", json=body, headers=headers)
            assert answer.status_code == status, headers
        reading = await gateway.http.get("/api/overview", headers={"sec-fetch-site": "same-site"})
        assert reading.status_code == 401


async def test_a_session_has_the_scope_of_its_token_and_ends_with_it(database: str, tmp_path: Path) -> None:
    tokens = token_file(tmp_path, **TOKENS)
    async with running(database, gateway_tokens=tokens) as gateway:
        await sign_in(gateway, token="may-read")
        for path in ("/api/overview", "/api/failures", "/api/types", "/api/audit"):
            assert (await gateway.http.get(path)).status_code == 200
        for path, body in (
            ("/api/pauses", {"kind": "type", "name": "t"}),
            ("/api/types/policy", {"type": "t", "max_attempts": 3}),
            ("/api/tasks/redrive", {"type": "t"}),
        ):
            answer = await gateway.http.post(path, json=body, headers=origin(gateway))
            assert check_problem(answer).status == 403
        token_file(tmp_path, operate="another")
        async with asyncio.timeout(20):
            while (await gateway.http.get("/api/session")).status_code != 401:
                await asyncio.sleep(0.1)


async def test_a_code_signs_in_once(database: str, tmp_path: Path) -> None:
    async with running(database, gateway_tokens=token_file(tmp_path, **TOKENS)) as gateway:
        assert check_problem(await gateway.http.post("/api/session/codes")).status == 401
        code = (await gateway.http.post("/api/session/codes", headers=bearer("may-read"))).json()["code"]
        assert (await sign_in(gateway, code=code)).json()["scope"] == "read"
        assert check_problem(await sign_in(gateway, code=code)).status == 401


async def test_without_tokens_nobody_signs_in(gateway: Gateway) -> None:
    session = (await gateway.http.get("/api/session")).json()
    assert session == {"name": "127.0.0.1", "scope": "operate", "tokens": False}
    assert "set-cookie" not in (await sign_in(gateway, token="any")).headers


# The overview


async def test_the_overview_counts_by_type_and_domain(database: str) -> None:
    await fill(database)
    async with running(database, organism=ServingOrganism()) as gateway:
        seen = (await gateway.http.get("/api/overview")).json()
    queue = seen["queue"]
    caption = next(one for one in queue["types"] if one["name"] == "caption")
    counts = {name: caption[name] for name in ("ready", "running", "retrying", "scheduled", "dead_last_hour")}
    assert counts == {"ready": 120, "running": 4, "retrying": 2, "scheduled": 0, "dead_last_hour": 12}
    assert caption["oldest_ready_s"] >= 0
    assert caption["latency"]["total_ms"][0] == pytest.approx(2000, abs=1)
    digest = next(one for one in queue["types"] if one["name"] == "digest")
    assert (digest["scheduled"], digest["ready"], digest["oldest_ready_s"]) == (3, 0, None)
    domains = {one["name"]: one for one in queue["domains"]}
    assert domains["photos"]["ready"] == 120
    assert domains[""]["scheduled"] == 3
    assert domains["archive"]["dead"] == 3
    assert (queue["dead"], queue["dead_more"], queue["dead_last_hour"]) == (15, False, 12)
    [lane] = queue["lanes"]
    assert (lane["state"], lane["held"]) == ("live", 4)
    assert [organ["id"] for organ in seen["organism"]["organs"]] == ["captions", "vectors"]
    [worst, *_] = seen["attention"]
    assert "12 dead letters in the last hour, most of type caption" in worst["what"]


async def test_the_overview_says_what_needs_a_person(database: str) -> None:
    await fill(database, "INSERT INTO tasks (type, run_after) VALUES ('lost', now() - interval '1 hour')")
    organism = ServingOrganism()
    async with running(database, organism=organism) as gateway:
        await gateway.http.post("/api/pauses", json={"kind": "type", "name": "slow", "reason": "a release"})
        said = [one["what"] for one in (await gateway.http.get("/api/overview")).json()["attention"]]
    assert any(text.startswith("No lane claims tasks, and 1 task is ready") for text in said)
    assert any(text.startswith("No organ serves the type lost") for text in said)
    assert any(text.startswith("The type slow is paused by 127.0.0.1") for text in said)


async def test_parts_that_are_down_are_said_and_not_hidden() -> None:
    organism = ServingOrganism()
    organism.away = True
    async with running("postgresql://127.0.0.1:1/nothing", organism=organism) as gateway:
        seen = (await gateway.http.get("/api/overview")).json()
        assert seen["queue"] is None
        assert seen["organism"]["status"] == "unhealthy"
        assert "Postgres does not answer" in seen["attention"][0]["what"]
        for path in ("/api/failures", "/api/types", "/api/audit"):
            assert check_problem(await gateway.http.get(path)).status == 503


async def test_five_hundred_boards_share_one_look(database: str) -> None:
    organism = OrganismWatch(Coordinator(ServingOrganism(), 1))
    async with Database(database) as queue:
        overviews = Overviews(queue, organism, ThroughputRecorder(queue), lambda: None)
        seen = await asyncio.gather(*(overviews.body() for _ in range(500)))
        assert len(set(seen)) == 1
        assert overviews.looks == 1
        overviews.forget()
        await overviews.get()
        assert overviews.looks == 2


async def test_more_than_was_counted_is_said(queue: Queue, database: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("organism_flows.blocks.queue.stores.board.WAITING_READ", 100)
    await fill(database, "INSERT INTO tasks (type) SELECT 'many' FROM generate_series(1, 500)")
    async with running(database) as gateway:
        [load] = (await gateway.http.get("/api/overview")).json()["queue"]["types"]
    assert (load["ready"], load["more"]) == (100, True)


def test_throughput_is_what_the_counters_grew_by() -> None:
    recorder = ThroughputRecorder(Database("postgresql://127.0.0.1:1/nothing"))
    now = datetime.now(UTC)
    assert recorder.throughput(0, now).points == []
    for ten_seconds in range(13):
        recorder.add(Sample(10.0 * ten_seconds, 5.0 * ten_seconds, 0, 0, {"lane": 7 * ten_seconds}))
    found = recorder.throughput(120.0, now)
    assert [point.completed for point in found.points] == [30, 30]
    assert found.completed_per_s == 0.5
    assert recorder.rate_of("lane", 120.0) == pytest.approx(0.7)
    assert recorder.rate_of("unknown", 120.0) is None


# Failures


async def test_failures_are_grouped_by_what_they_say(database: str) -> None:
    await fill(database)
    async with running(database) as gateway:
        found = (await gateway.http.get("/api/failures")).json()
        first, second = found["groups"]
        assert (first["type"], first["tasks"]) == ("caption", 12)
        assert first["error"] == "ValueError: cannot decode ⟨path⟩: ⟨n⟩% bad marker at byte ⟨n⟩"
        assert second["error"] == "OSError: ⟨id⟩ is gone"
        assert sum(first["trend"]) == 12
        assert (found["read"], found["more"]) == (15, False)
        for group in found["groups"]:
            body = {"type": group["type"], "error": group["pattern"]}
            redriven = (await gateway.http.post("/api/tasks/redrive", json=body)).json()
            assert redriven["found"] == group["tasks"], "the pattern fits its group"
        only = (await gateway.http.get("/api/failures?type=embed")).json()["groups"]
        assert [group["type"] for group in only] == ["embed"]
        await gateway.http.post("/api/tasks/redrive", json={"type": "embed", "dry_run": False})
        left = (await gateway.http.get("/api/failures?type=embed")).json()["groups"]
        assert left == [], "seen at once, although lists are kept for a moment"
        since = datetime.now(UTC).isoformat()
        assert (await gateway.http.get("/api/failures", params={"since": since})).json()["groups"] == []


@pytest.mark.parametrize(
    "error", ["", "%", "\\", "_a\\%", HOSTILE, "x" * 5000, "\n\nlater", "\x03 1 \x01", "é" * 300]
)
async def test_any_error_has_a_pattern_that_fits_it(error: str, database: str) -> None:
    await fill(
        database,
        "INSERT INTO tasks (type, status, finished_at, error) SELECT 't', 'failed', now(), $1",
        error,
    )
    async with running(database) as gateway:
        [group] = (await gateway.http.get("/api/failures")).json()["groups"]
        body = {"type": "t", "error": group["pattern"]}
        assert (await gateway.http.post("/api/tasks/redrive", json=body)).json()["found"] == 1


def test_a_pattern_is_short_and_ends_in_no_half_escape() -> None:
    for said in ("%" * 400, "a" * (PATTERN_LIMIT - 1) + "%", "\\" * 399, "\x01\x02\x03" * 200):
        pattern = like_pattern(said)
        assert len(pattern) <= PATTERN_LIMIT
        assert pattern.endswith("%")
    assert like_pattern("\x01\x02 5%") == "% 5\\%%"


# Types and the audit


async def test_types_show_policy_pause_and_organ(database: str) -> None:
    await fill(database)
    async with running(database, organism=ServingOrganism()) as gateway:
        order = {"aging_s": 60, "affinity_s": 20, "affinity_keys": 6, "earliest_deadline": True}
        await gateway.http.post("/api/types/policy", json={"type": "embed", "max_attempts": 2, **order})
        types = {one["name"]: one for one in (await gateway.http.get("/api/types")).json()["types"]}
        assert types["caption"]["policy"]["timeout_s"] == 30
        assert types["caption"]["handler"] == "models.captions:Captioner"
        assert types["caption"]["version"] == "b5e1f0"
        assert types["embed"]["policy"]["max_attempts"] == 2
        assert types["embed"]["policy"].items() >= order.items()
        assert types["caption"]["policy"]["timeout_by_deadline"] is False
        assert types["digest"]["served"] is False
        wrong = await gateway.http.post("/api/types/policy", json={"type": "embed", "max_attempts": 0})
        assert check_problem(wrong).status == 422


async def test_whatever_is_steered_leaves_a_line(database: str, tmp_path: Path) -> None:
    tokens = token_file(tmp_path, operate="may-operate")
    async with running(database, gateway_tokens=tokens, token="may-operate") as gateway:
        [waiting, created] = await gateway.submit({"type": "t"}, {"type": "t", "run_immediately": False})
        post = gateway.http.post
        await post(f"/api/tasks/{created}/run")
        await post(f"/api/tasks/{waiting}/cancel")
        await post(f"/api/tasks/{waiting}/cancel")  # changes nothing
        await post(f"/api/tasks/{waiting}/retry")
        await post("/api/tasks/cancel", json={"type": "t", "dry_run": True})
        await post("/api/tasks/cancel", json={"type": "t", "dry_run": False})
        await post("/api/pauses", json={"kind": "type", "name": "t", "reason": HOSTILE})
        await post("/api/pauses/resume", json={"kind": "type", "name": "t"})
        await post("/api/pauses/resume", json={"kind": "type", "name": "t"})
        await post("/api/types/policy", json={"type": "t", "timeout_s": 9})
        page = (await gateway.http.get("/api/audit?limit=4")).json()
        rest = (await gateway.http.get(f"/api/audit?limit=100&cursor={page['next']}")).json()
        entries = [*page["entries"], *rest["entries"]]
        done = [(one["action"], one["tasks"]) for one in entries][::-1]
        assert done == [
            ("run", 1), ("cancel", 1), ("retry", 1), ("cancel", 2), ("pause", 0), ("resume", 0), ("policy", 0)
        ]  # fmt: skip
        assert {one["actor"].startswith("gateway: ") for one in entries} == {True}
        assert next(one for one in entries if one["action"] == "pause")["details"]["reason"] == HOSTILE
        only = (await gateway.http.get("/api/audit?action=pause")).json()["entries"]
        assert [one["action"] for one in only] == ["pause"]


async def test_tasks_are_found_by_key_organ_and_lane(database: str) -> None:
    await fill(database)
    async with running(database) as gateway:
        await gateway.submit({"type": "t", "dedup_key": "k-1"}, {"type": "t"})
        for query, number in (
            ("dedup_key=k-1", 1),
            ("lane=otter-0", 4),
            ("organ=captions&limit=500", 40),
            ("lane=no", 0),
        ):
            tasks = (await gateway.http.get(f"/api/tasks?{query}")).json()["tasks"]
            assert len(tasks) == number, query
