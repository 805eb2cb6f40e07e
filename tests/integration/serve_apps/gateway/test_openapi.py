"""The published description: whole, and its examples work. `described` holds every answer against it."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.gateway.routes import OPEN, ROUTES
from tests.support.gateway.running import Gateway

pytestmark = pytest.mark.anyio


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
