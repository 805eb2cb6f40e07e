"""The shape of an error of the HTTP API."""

from __future__ import annotations

import httpx

from organism_flows.blocks.client.messages import PROBLEM_TYPE, Problem

HEADERS = {"x-content-type-options": "nosniff", "cache-control": "no-store", "x-frame-options": "DENY"}


def check_problem(answer: httpx.Response) -> Problem:
    assert answer.headers["content-type"].startswith(PROBLEM_TYPE), (answer.status_code, answer.text[:500])
    problem = Problem.model_validate_json(answer.content)
    assert problem.status == answer.status_code
    assert problem.type.startswith("urn:organism:")
    assert HEADERS.items() <= dict(answer.headers).items()
    assert "access-control-allow-origin" not in answer.headers
    return problem
