"""verify asks Ray's nodes for their versions, and trusts an answer for as long as it is told to."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.versions import installed
from organism_flows.flows.verification import node_checks
from tests.support.stack import Stack

pytestmark = [pytest.mark.anyio, pytest.mark.stack]


async def test_a_node_is_asked_again_when_its_answer_is_old_or_of_another_version(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    await RayCluster().connect()
    [node] = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    asked: list[Any] = []
    ask = node_checks._ask

    async def noted(node: Any, here: dict[str, str]) -> str | None:
        asked.append(node["NodeID"])
        return await ask(node, here)

    monkeypatch.setattr(node_checks, "_ask", noted)
    first = await node_checks.versions_on([node])
    assert (first.status, len(asked)) == ("ok", 1)
    again = await node_checks.versions_on([node], trust_s=60)
    assert (again.status, len(asked)) == ("ok", 1)
    assert again.evidence.endswith("; 1 of 1 asked up to 0 minutes ago")
    assert (await node_checks.versions_on([node])).evidence == first.evidence
    assert len(asked) == 2, "who does not trust an answer asks"

    here = installed() | {"ray": "0.0"}
    monkeypatch.setattr(node_checks, "installed", lambda: here)
    monkeypatch.setattr(node_checks, "_ask", lambda node, _: other(node, asked))
    for _ in range(2):
        found = await node_checks.versions_on([node], trust_s=60)
        assert (found.status, found.evidence) == ("failed", "it has another ray")
    assert len(asked) == 4, "an answer that differed is not trusted"


async def other(node: Any, asked: list[Any]) -> str:
    asked.append(node["NodeID"])
    return "it has another ray"
