"""Claimed tasks, as a lane has them."""

from __future__ import annotations

from itertools import count

from organism_flows.blocks.queue import Batch

numbers = count(1)


def tasks(kinds: list[str], suspicions: list[int] | None = None, params: str = "{}") -> Batch:
    n = len(kinds)
    claims = [next(numbers) for _ in range(n)]
    return Batch(
        ids=[f"id-{claim}" for claim in claims],
        claims=claims,
        attempts=[1] * n,
        types=kinds,
        params=[params] * n,
        descriptions=[None] * n,
        domains=[None] * n,
        drift_scores=[0.0] * n,
        timeouts=[None] * n,
        suspicions=suspicions or [0] * n,
        reclaimed=[False] * n,
        checkpoints=[None] * n,
    )
