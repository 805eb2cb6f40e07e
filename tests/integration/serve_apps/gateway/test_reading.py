"""Bodies are read quickly, and say what the standard library says they say."""

from __future__ import annotations

import asyncio
import inspect
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Message

from organism_flows.serve_apps.gateway.http.json_body import JsonRequest
from tests.support.gateway.running import Gateway

pytestmark = pytest.mark.anyio
NUMBERS = st.integers() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def read(body: bytes) -> Any:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    return asyncio.run(JsonRequest({"type": "http", "headers": []}, receive).json())


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
@example(2**64, True, None)
@example(-(2**63) - 1, True, None)
@example([float("inf")], True, None)
@example("\ud800", True, None)
@example({"\x00": "\x00"}, True, None)
def test_what_is_json_is_read_as_ever(value: Any, ascii: bool, indent: int | None) -> None:
    try:
        body = json.dumps(value, ensure_ascii=ascii, indent=indent).encode()
    except UnicodeEncodeError:  # surrogates go nowhere but escaped
        return
    # As texts, because 1 and 1.0 and True are equal.
    assert repr(read(body)) == repr(json.loads(body))


@given(st.binary() | st.text(alphabet='{}[]",:0123456789eE+-.nulNaInfty \\').map(str.encode))
def test_what_is_none_is_refused_as_ever(body: bytes) -> None:
    try:
        wanted = repr(json.loads(body))
    except ValueError as error:
        with pytest.raises(type(error)):
            read(body)
    else:
        assert repr(read(body)) == wanted


async def test_long_integers_stay_exact(gateway: Gateway) -> None:
    params = {"n": 2**64 + 1, "m": -(2**63) - 1, "f": 0.1}
    [task_id] = await gateway.submit({"type": "t", "params": params})
    assert (await gateway.http.get(f"/api/tasks/{task_id}")).json()["params"] == params


async def test_no_dependency_of_a_route_is_run_in_a_thread() -> None:
    """Each would take longer than the statement of the route."""
    from fastapi.dependencies.models import Dependant

    from organism_flows.serve_apps.gateway.routes import coordinator, health, pauses, task_actions, tasks

    def calls(dependant: Dependant) -> list[Any]:
        return [dependant.call, *(call for inner in dependant.dependencies for call in calls(inner))]

    for router in (m.router for m in (coordinator, health, pauses, task_actions, tasks)):
        for route in router.routes:
            for call in calls(route.dependant):
                target = call if asyncio.iscoroutinefunction(call) else getattr(call, "__call__", call)  # noqa: B004
                is_async = asyncio.iscoroutinefunction(target) or inspect.isasyncgenfunction(call)
                assert is_async, f"{call} is no coroutine"
