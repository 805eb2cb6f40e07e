"""Helpers for the organism's tests: batches by rows, organisms by handlers, no sleeping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from organism_flows.blocks.queue.wire import OUTCOME_COLUMNS, Batch, Outcomes
from organism_flows.serve_apps.organism.config import OrganismConfig
from organism_flows.serve_apps.organism.manager import OrganismManager

MODULE = "tests.support.organism.misbehaviour"


def organ(name: str, handler: str, **more: Any) -> dict[str, Any]:
    """Configuration of one organ serving the type of its own name."""
    path = handler if ":" in handler else f"{MODULE}:{handler}"
    return {"id": name, "task_types": [name], "handler": path, **more}


def organism(*organs: dict[str, Any], **more: Any) -> OrganismManager:
    """An organism of these organs and the built-in ones."""
    return OrganismManager(OrganismConfig.model_validate({"organs": list(organs), **more}))


def batch(*rows: tuple[str, Any] | tuple[str, Any, float]) -> dict[str, Any]:
    """A batch on the wire, from rows of type, params and perhaps timeout in seconds."""
    made = Batch()
    for number, row in enumerate(rows):
        made.ids.append(f"task-{number}")
        made.claims.append(100 + number)
        made.attempts.append(1)
        made.types.append(row[0])
        made.params.append(row[1] if isinstance(row[1], str) else orjson.dumps(row[1]).decode())
        made.descriptions.append(None)
        made.domains.append(None)
        made.drift_scores.append(0.0)
        made.timeouts.append(row[2] if len(row) > 2 else None)
        made.suspicions.append(0)
        made.reclaimed.append(False)
        made.checkpoints.append(None)
    return made.to_wire()


def suspected(wire: dict[str, Any], deaths: int = 1) -> dict[str, Any]:
    """The batch, as if so many replicas had died with it."""
    return {**wire, "suspicions": [deaths] * len(wire["ids"])}


def cancel_claims(manager: OrganismManager, *claims: int) -> list[int]:
    """Cancel tasks of `batch`; the claims of those that were there."""
    known = manager.cancel_tasks({f"task-{claim - 100}": claim for claim in claims})
    return [100 + int(task.removeprefix("task-")) for task in known]


class Result:
    """The outcomes of one batch by position."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.causes: dict[int, str] = {}
        self.results: dict[int, Any] = {}
        self.errors: dict[int, str | None] = {}
        self.order: list[int] = []
        self.chunks: list[int] = []
        self.paths: dict[int, str] = {}
        self.organs: dict[int, str | None] = {}
        self.spent: dict[int, float | None] = {}

    def add(self, wire: dict[str, Any]) -> None:
        outcomes = Outcomes.from_wire(wire)
        assert len({len(getattr(outcomes, name)) for name in OUTCOME_COLUMNS}) == 1
        self.begun += outcomes.begun
        self.chunks.append(len(outcomes))
        for row, position in enumerate(outcomes.positions):
            assert position not in self.causes, "reported twice"
            self.order.append(position)
            self.causes[position] = outcomes.causes[row]
            text = outcomes.results[row]
            self.results[position] = None if text is None else orjson.loads(text)
            self.errors[position] = outcomes.errors[row]
            self.paths[position] = outcomes.paths[row]
            self.organs[position] = outcomes.organ_ids[row]
            self.spent[position] = outcomes.spent[row]
            assert (text is None) == (outcomes.causes[row] not in ("completed", "snoozed"))
            assert (outcomes.errors[row] is None) == (outcomes.causes[row] == "completed")


async def run(
    manager: OrganismManager,
    wire: dict[str, Any],
    *,
    on_chunk: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Run a batch to its end; every task must have exactly one outcome."""
    result = Result()
    async for outcomes in manager.handle_tasks(wire):
        result.add(outcomes)
        on_chunk(result)
    assert sorted(result.causes) == list(range(len(wire["ids"])))
    return result


def in_flight(manager: OrganismManager) -> int:
    return int(manager.status()["totals"]["in_flight"])
