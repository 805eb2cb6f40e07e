"""Limits over HTTP: set, listed with their use, removed, and recorded in the audit."""

from __future__ import annotations

import pytest

from tests.support.gateway.running import Gateway

pytestmark = pytest.mark.anyio


async def test_limits_are_set_listed_and_removed(gateway: Gateway) -> None:
    limit = {"name": "customers", "kind": "running", "types": ["t"], "by_key": True, "amount": 2}
    answer = await gateway.http.post("/api/limits", json=limit)
    assert answer.status_code == 200, answer.text
    [listed] = (await gateway.http.get("/api/limits")).json()["limits"]
    assert {name: listed[name] for name in limit} == limit
    assert (listed["running"], listed["left"], listed["exceptions"]) == ({}, {}, {})
    [task_id] = await gateway.submit({"type": "t", "key": "acme"})
    assert (await gateway.http.get(f"/api/tasks/{task_id}")).json()["key"] == "acme"
    removed = await gateway.http.post("/api/limits/remove", json={"name": "customers"})
    assert removed.json() == {"removed": True}
    assert (await gateway.http.post("/api/limits/remove", json={"name": "customers"})).json() == {
        "removed": False
    }
    rows = (await gateway.http.get("/api/audit")).json()["entries"]
    assert [row["action"] for row in rows] == ["limit removed", "limit"]


async def test_a_limit_is_closed_and_opened_and_a_key_gets_a_weight(gateway: Gateway) -> None:
    post = gateway.http.post
    await post("/api/limits", json={"name": "api", "kind": "running", "amount": 2})
    what = {"kind": "limit", "name": "api"}
    until = "2100-01-01T00:00:00Z"
    answer = await post("/api/limits/close", json={**what, "until": until, "reason": "they mend it"})
    [closure] = answer.json()["closures"]
    assert (closure["name"], closure["until"], closure["reason"]) == ("api", until, "they mend it")
    answer = await post("/api/limits/weights", json={"key": "acme", "weight": 3})
    assert answer.json()["weights"] == {"acme": 3}
    assert [(await post("/api/limits/open", json=what)).json() for _ in range(2)] == [
        {"opened": True},
        {"opened": False},
    ]
    wrong = await post("/api/limits/close", json={"kind": "limit", "name": "none", "until": until})
    assert (wrong.status_code, "there is no limit none" in wrong.text) == (404, True)
    for path, body in (
        ("close", {**what, "until": 7}),
        ("close", what),
        ("close", {**what, "until": until, "key": "x" * 126}),
        ("weights", {"key": "acme", "weight": 0}),
        ("weights", {"key": "", "weight": 2}),
    ):
        assert (await post(f"/api/limits/{path}", json=body)).status_code in (400, 422), body
    rows = (await gateway.http.get("/api/audit")).json()["entries"]
    assert [row["action"] for row in rows] == ["opened", "weight", "closed", "limit"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "x", "kind": "rate", "amount": 1},
        {"name": "x", "kind": "running", "amount": -1},
        {"name": "x", "kind": "running", "amount": "1"},
        {"name": "x", "kind": "running", "amount": 1, "unknown": 1},
        {"name": "x" * 101, "kind": "running", "amount": 1},
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused(gateway: Gateway, wrong: dict[str, object]) -> None:
    answer = await gateway.http.post("/api/limits", json=wrong)
    assert answer.status_code in (400, 422), answer.text
    assert (await gateway.http.get("/api/limits")).json() == {"limits": [], "closures": [], "weights": {}}
