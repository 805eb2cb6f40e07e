"""The published description: whole, and its examples work. `described` holds every answer against it."""

from __future__ import annotations

import json
import re

import pytest

from tests.serve_apps.gateway.running import Gateway

pytestmark = pytest.mark.anyio

TASK = "/api/tasks/{task_id}"
OPEN = {("get", "/healthz"), ("get", "/readyz"), ("post", "/api/session")}
ROUTES = {
    *(
        ("post", path)
        for path in (
            "/api/tasks",
            "/api/tasks/cancel",
            "/api/tasks/redrive",
            "/api/tasks/wait",
            "/api/pauses",
            "/api/pauses/resume",
            "/api/limits",
            "/api/limits/remove",
            "/api/session",
            "/api/session/sign-out",
            "/api/session/codes",
            "/api/types/policy",
        )
    ),
    *(
        ("get", path)
        for path in (
            "/api/tasks",
            "/api/tasks/export",
            "/api/pauses",
            "/api/limits",
            "/api/session",
            "/api/overview",
            "/api/failures",
            "/api/types",
            "/api/audit",
            "/healthz",
            "/readyz",
            "/metrics",
        )
    ),
    ("get", "/coordinator/health"),
    ("post", "/coordinator/submit"),
    *(("get", f"{TASK}{path}") for path in ("", "/status", "/why", "/wait", "/events")),
    *(("post", f"{TASK}{path}") for path in ("/cancel", "/run", "/retry")),
}


async def test_every_route_is_described(gateway: Gateway) -> None:
    document = (await gateway.http.get("/openapi.json")).json()
    described = {(method, path) for path, routes in document["paths"].items() for method in routes}
    assert described == ROUTES
    for path, routes in document["paths"].items():
        for method, route in routes.items():
            assert route["summary"]
            assert route["description"]
            assert ("security" in route) is ((method, path) not in OPEN)
            refs = [
                content["schema"].get("$ref")
                for status, answer in route["responses"].items()
                for content in answer["content"].values()
                if int(status) >= 400
            ]
            own = {"/coordinator/health": {"#/components/schemas/OrganismHealth"}}.get(path, set())
            assert set(refs) <= {"#/components/schemas/Problem"} | own
    for name in re.findall('"#/components/schemas/(\\w+)"', json.dumps(document)):
        assert name in document["components"]["schemas"], "a reference that leads nowhere"


async def test_the_examples_work(gateway: Gateway) -> None:
    document = (await gateway.http.get("/openapi.json")).json()
    body = document["paths"]["/api/tasks"]["post"]["requestBody"]["content"]["application/json"]
    assert len(body["examples"]) == 3
    for example in body["examples"].values():
        answer = await gateway.http.post("/api/tasks", json=example["value"])
        assert answer.status_code == 201, answer.text
    [problem] = document["components"]["schemas"]["Problem"]["examples"]
    answer = await gateway.http.post("/api/tasks", json={"type": "t", "priority": "high"})
    assert answer.json() == problem
