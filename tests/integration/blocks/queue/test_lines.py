"""Lines by type, priority, domain and key: no backlog keeps another waiting, however many there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import hypothesis.strategies as st
import pytest
from hypothesis import given

from organism_flows.blocks.queue import Batch, ClaimLines, NewTask, Queue
from organism_flows.blocks.queue.db.statements import statement
from organism_flows.blocks.queue.stores.claiming import claim_lines, line_pages
from organism_flows.blocks.queue.stores.claiming.line_shares import ClaimLine, LineShares
from tests.support.clock import START, advance, set_clock
from tests.support.sql import pool_of

pytestmark = pytest.mark.anyio


async def add(queue: Queue, number: int, *, keys: Sequence[str | None] = (None,), **fields: Any) -> None:
    """Add so many tasks of each key, in this order."""
    await queue.submit([NewTask(type="t", key=key, **fields) for key in keys for _ in range(number)])


async def keys_of(queue: Queue, batch: Batch) -> Counter[str | None]:
    rows = await pool_of(queue).fetch("SELECT key FROM tasks WHERE id = ANY ($1::uuid[])", batch.ids)
    return Counter(row["key"] for row in rows)


async def lines_of_lane(queue: Queue) -> ClaimLines:
    await queue.leases.register("lane")
    return queue.claims.lines("lane")


async def test_keys_share_a_claim_evenly_and_leave_no_room_unused(queue: Queue) -> None:
    await add(queue, 100, keys=["many"])
    await add(queue, 4, keys=["few", None])
    lines = await lines_of_lane(queue)
    taken = [await keys_of(queue, await lines.claim(9, lambda _: 9)) for _ in range(3)]
    assert taken[0] == {"many": 3, "few": 3, None: 3}
    assert taken[1]["few"] == taken[1][None] == 1, "what was left of them"
    assert sum(taken[2].values()) >= 7, "nobody else waits"


async def test_a_stream_without_room_holds_up_no_other_stream_of_its_type(queue: Queue) -> None:
    await add(queue, 50, domain="slow")
    await add(queue, 2, domain="quick")
    lines = await lines_of_lane(queue)
    room = {"slow": 0, "quick": 10}
    batch = await lines.claim(10, lambda stream: room[stream], lambda _, domain: domain)
    assert batch.domains == ["quick", "quick"]


@pytest.mark.parametrize("quota", [5, 100])
async def test_each_of_many_keys_has_its_turn_beside_one_with_a_backlog(
    queue: Queue, quota: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_lines, "LINES_AT_ONCE", 8)
    monkeypatch.setattr(line_pages, "PAGE_LINES", (8, 16))
    await add(queue, 2000, keys=["k050"])
    keys = [f"k{number:03}" for number in range(100) if number != 50]
    await add(queue, 1, keys=keys)
    await add(queue, 1)
    lines = await lines_of_lane(queue)
    claims: list[Counter[str | None]] = []
    while sum(len(claim) for claim in claims) < 5000 and (batch := await lines.claim(quota, lambda _: quota)):
        claims.append(await keys_of(queue, batch))
        assert len(batch) <= quota
        if {key for claim in claims for key in claim} >= {*keys, None}:
            break
    # Pages of 8 to 16 lines, of each of which a claim asks as many as it has places for.
    assert len(claims) <= 2 * 100 / min(quota, 16) + 10
    assert not lines.exhausted


@pytest.mark.parametrize("quota", [3, 50])
async def test_many_keys_share_by_weight_and_the_oldest_backlog_gets_no_more(
    queue: Queue, quota: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_lines, "LINES_AT_ONCE", 8)
    monkeypatch.setattr(line_pages, "PAGE_LINES", (8, 16))
    await add(queue, 900, keys=["k21"])
    await add(queue, 60, keys=[f"k{number:02}" for number in range(40) if number != 21])
    await pool_of(queue).execute("INSERT INTO key_weights (key, weight) VALUES ('k07', 3)")
    lines = await lines_of_lane(queue)
    taken: Counter[str | None] = Counter()
    while taken.total() < 840:
        taken += await keys_of(queue, await lines.claim(quota, lambda _: quota))
    others = [tasks for key, tasks in taken.items() if key != "k07"]
    assert len(taken) == 40
    # A claim of 50 gives three tasks to each of 16 lines, or nine, and two more to some.
    assert max(others) - min(others) <= max(1, quota // 5)
    assert abs(taken["k07"] - 3 * others[0]) <= max(3, quota // 3)


async def test_what_is_due_is_found_among_many_keys_that_are_not(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_lines, "LINES_AT_ONCE", 8)
    monkeypatch.setattr(line_pages, "PAGE_LINES", (8, 16))
    await set_clock(queue, START)
    later = START + timedelta(hours=1)
    await add(queue, 1, keys=[f"k{number}" for number in range(300)], run_after=later)
    await add(queue, 3, keys=["k7x"], run_after=START)
    lines = await lines_of_lane(queue)
    assert await keys_of(queue, await lines.claim(10, lambda _: 10)) == {"k7x": 3}
    assert not await lines.claim(10, lambda _: 10)
    assert min(line.due_s for line in lines) == 3600, "nor is it late for the next"
    await advance(queue, 3600)
    assert len(await queue.claims.claim("lane", 300)) == 0, "its lease is over"
    await queue.leases.register("other")
    assert len(await queue.claims.claim("other", 400)) == 300


async def test_a_paused_domain_with_many_keys_is_passed_over(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_lines, "LINES_AT_ONCE", 8)
    monkeypatch.setattr(line_pages, "PAGE_LINES", (8, 16))
    await add(queue, 1, keys=[f"k{number}" for number in range(100)], domain="a")
    await add(queue, 2, keys=["k"], domain="b")
    await queue.operator.pause("domain", "a")
    lines = await lines_of_lane(queue)
    for _ in range(100):
        batch = await lines.claim(10, lambda _: 10)
        if batch:
            break
        await lines.scan()
        assert lines.stale, "there is more to be read"
    assert batch.domains == ["b", "b"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that claims have run, by name."""
    names: list[str] = []

    async def fetch(pool: asyncpg.Pool[Any], query: str, *arguments: Any, **options: Any) -> Any:
        names.extend(name for name in ("claim", "lines", "next_lines") if query == statement(name).text)
        return await whole(pool, query, *arguments, **options)

    whole = asyncpg.Pool.fetch
    monkeypatch.setattr(asyncpg.Pool, "fetch", fetch)
    return names


async def add_many(queue: Queue, tasks: int, keys: int) -> None:
    await pool_of(queue).execute(
        "INSERT INTO tasks (type, key) SELECT 't', 'k' || i % $2::int FROM generate_series(1, $1::int) i",
        tasks,
        keys,
    )


async def test_many_keys_cost_a_claim_no_more_statements(queue: Queue, asked: list[str]) -> None:
    await add_many(queue, 10_000, 5000)
    lines = await lines_of_lane(queue)
    await lines.scan()
    asked.clear()
    assert len(await lines.claim(1000, lambda _: 1000)) >= 256
    assert asked == ["next_lines", "claim"]


async def test_lines_are_read_once_for_many_rounds_until_tasks_become_ready(
    queue: Queue, asked: list[str]
) -> None:
    await add_many(queue, 3000, 300)
    await queue.leases.register("lane")
    heard: list[int | None] = [0]
    lines = queue.claims.lines("lane", clock=lambda: 0.0, heard=lambda: heard[0])
    await lines.scan()
    asked.clear()
    claimed = await claim_until(queue, lines, 900)
    assert asked.count("next_lines") <= 3, asked
    assert max(claimed.values()) - min(claimed.values()) <= 1, "keys share evenly all the same"
    await add(queue, 2, keys=["a new one"])
    heard[0] = 1
    asked.clear()
    assert (await claim_until(queue, lines, 900))["a new one"] == 2
    assert asked.count("next_lines") <= 4, asked
    heard[0] = None
    asked.clear()
    await claim_until(queue, lines, 600)
    assert asked.count("next_lines") >= 5, "who hears of nothing has to look for each claim"


async def claim_until(queue: Queue, lines: ClaimLines, tasks: int) -> Counter[str | None]:
    """Claim at least so many tasks, 128 at a time, and return how many of each key."""
    claimed: Counter[str | None] = Counter()
    while claimed.total() < tasks:
        batch = await lines.claim(128, lambda _: 128)
        assert batch
        claimed += await keys_of(queue, batch)
    return claimed


some_lines = st.lists(
    st.tuples(st.sampled_from("tu"), st.integers(0, 1), st.sampled_from(["", "d"]), st.sampled_from("abcd")),
    unique=True,
    min_size=1,
)


@given(
    some_lines,
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6), st.booleans()), min_size=20, max_size=20),
)
def test_every_line_has_its_turn_and_no_room_is_overdrawn(
    ids: list[tuple[str, int, str, str]], claims: list[tuple[int, int, bool]]
) -> None:
    lines = sorted((ClaimLine(*line_id) for line_id in ids), key=lambda line: -line.priority)
    top = {(line.type, line.domain): line.priority for line in reversed(lines)}
    shares = LineShares()
    asked: Counter[tuple[str, int, str, str]] = Counter()
    for limit, room, some_idle in claims:
        for place, line in enumerate(lines):
            line.exhausted = some_idle and place % 2 == 0
        wanted = shares.of_claim(lines, limit, lambda _, room=room: room, lambda *names: "/".join(names))  # type: ignore[misc]
        assert [line.priority for line, _ in wanted] == sorted(
            (line.priority for line, _ in wanted), reverse=True
        )
        assert all(quota > 0 for _, quota in wanted)
        drawn: Counter[tuple[str, str, int]] = Counter()
        for line, quota in wanted:
            drawn[line.type, line.domain, line.priority] += quota
        assert max(drawn.values(), default=0) <= room
        asked.update(line.id for line, _ in wanted)
    # Enough claims for each line of the highest priority of its stream, with one place in each.
    for _ in range(8):
        for line in lines:
            line.exhausted = False
        asked.update(
            line.id for line, _ in shares.of_claim(lines, 100, lambda _: 1, lambda *names: "/".join(names))
        )
    for line in lines:
        if line.priority == top[line.type, line.domain]:
            assert asked[line.id] > 0
