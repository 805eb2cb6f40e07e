"""Answers to handlers share messages to the replicas, and none is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, cast

import pytest

from organism_flows.blocks.task_report import Acknowledgement
from organism_flows.flows.lanes import replica_messages
from organism_flows.flows.lanes.replica_messages import ReplicaMessages

pytestmark = pytest.mark.anyio
DONE = Acknowledgement(1)
REFUSED = Acknowledgement(1, "Postgres refused it")


class Organism:
    def __init__(self) -> None:
        self.heard: list[dict[int, Acknowledgement]] = []

    async def acknowledge(self, answers: Mapping[int, Acknowledgement]) -> None:
        self.heard.append(dict(answers))


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> tuple[ReplicaMessages, Organism]:
    monkeypatch.setattr(replica_messages, "GATHER_S", 3600.0)
    organism = Organism()
    return ReplicaMessages(cast("Any", organism), "lane", logging.getLogger("test")), organism


async def test_the_first_answer_leaves_at_once_and_the_next_ones_together(
    messages: tuple[ReplicaMessages, Organism],
) -> None:
    sent, organism = messages
    sent.acknowledge({1: DONE})
    while not organism.heard:
        await asyncio.sleep(0)
    sent.acknowledge({2: DONE})
    sent.acknowledge({3: REFUSED})
    await sent.close()
    assert organism.heard == [{1: DONE}, {2: DONE, 3: REFUSED}]


async def test_no_answer_takes_the_place_of_another(messages: tuple[ReplicaMessages, Organism]) -> None:
    sent, organism = messages
    sent.acknowledge({1: REFUSED})
    sent.acknowledge({1: DONE})
    sent.acknowledge({})
    await sent.close()
    assert organism.heard == [{1: REFUSED}, {1: DONE}]
