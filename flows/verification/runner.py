"""Runs every check of `verify`. A check that fails does not keep the others from running."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import TypeAlias, TypeVar

import asyncpg
from prefect import runtime

from organism_flows.blocks.errors import OrganismError, SchemaMismatch
from organism_flows.blocks.finding import Finding, failed
from organism_flows.blocks.local_stack.stack_state import organism_url, read_stack
from organism_flows.blocks.prefect_blocks.block_base import NamedBlock
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.blocks.queue import Queue
from organism_flows.blocks.queue.db.connection import TRANSIENT_ERRORS
from organism_flows.blocks.settings import load_settings
from organism_flows.flows.verification import (
    canary,
    cluster_checks,
    gateway_checks,
    postgres_checks,
    prefect_checks,
    queue_checks,
    settings_checks,
)
from organism_flows.flows.verification.thresholds import Thresholds
from organism_flows.flows.verification.verification import Check, Verification, run_check

PART_TIMEOUT_S = 45.0
"""Timeout of the checks of one part, in seconds.

Longer than the timeout for connecting to a cluster that does not answer.
"""
LINE_LIMIT = 2000
"""Most characters of the line that is recorded."""

Ask: TypeAlias = Callable[[str, Check, float], Awaitable[list[Finding]]]
B = TypeVar("B", bound=NamedBlock)


async def verify_all(
    *,
    queue: str = "default",
    organism: str = "default",
    ray_cluster: str = "default",
    limits: Thresholds | None = None,
    with_canary: bool = True,
    trust_nodes_s: float = 0.0,
    ask: Ask = run_check,
) -> Verification:
    """Check every part and return all findings. A part that does not work is a finding, not an error.

    Args:
        queue: Name of the Task Queue block.
        organism: Name of the Organism block.
        ray_cluster: Name of the Ray Cluster block.
        limits: Thresholds beyond which a finding is degraded; `None` for the defaults.
        with_canary: Send a task through the whole system.
        trust_nodes_s: Do not ask a Ray node for its versions that had ours at most so many seconds ago.
        ask: Runs the check of one part and returns its findings.
    """
    limits = limits or Thresholds()
    async with AsyncExitStack() as stack:
        asked = [
            ask("environment", settings_checks.check, PART_TIMEOUT_S),
            ask("prefect", prefect_checks.check, PART_TIMEOUT_S),
        ]
        asked.append(_cluster(organism, ray_cluster, trust_nodes_s, ask))
        running = read_stack(load_settings().home)
        if running is not None and running.gateway_url:
            asked.append(ask("gateway", partial(gateway_checks.check, running.gateway_url), PART_TIMEOUT_S))
        found: list[Finding] = []
        open_queue: Queue | None = None
        try:
            block = await block_of(TaskQueue, queue)
            open_queue = await stack.enter_async_context(
                block.open(application_name="organism-verify", connections=2)
            )
        except SchemaMismatch as error:
            found.append(failed("postgres: migrated", error.what, error.next_step))
        except OrganismError as error:
            found.append(failed("postgres: reachable", error.what, error.next_step))
        else:
            asked.append(_tables(open_queue, limits, with_canary, ask))
        for findings in await asyncio.gather(*asked):
            found += findings
        verification = Verification(findings=found)
        if open_queue is not None:
            await record(open_queue, verification)
    return verification


async def _tables(queue: Queue, limits: Thresholds, with_canary: bool, ask: Ask) -> list[Finding]:
    found = await ask("postgres", partial(postgres_checks.check, queue), PART_TIMEOUT_S)
    found += await ask("queue", partial(queue_checks.check, queue, limits), PART_TIMEOUT_S)
    if with_canary:
        found += await ask("canary", partial(canary.check, queue, limits), limits.canary_s + PART_TIMEOUT_S)
    return found


async def record(queue: Queue, found: Verification) -> None:
    """Leave a row in the audit, which the board shows as the last verification."""
    details = {"status": found.status, "line": found.line[:LINE_LIMIT], "run": runtime.flow_run.id}
    actor = f"{getpass.getuser()}@{socket.gethostname()}"
    # The findings say already what is wrong with the database.
    with suppress(OrganismError, *TRANSIENT_ERRORS, asyncpg.PostgresError):
        await queue.board.record("verify", actor, details)


async def _cluster(organism: str, ray_cluster: str, trust_nodes_s: float, ask: Ask) -> list[Finding]:
    async def ray() -> list[Finding]:
        cluster = await block_of(RayCluster, ray_cluster)
        return await cluster_checks.check_ray(cluster, trust_nodes_s=trust_nodes_s)

    async def serve() -> list[Finding]:
        url = organism_url(load_settings())
        return await cluster_checks.check_serve(await block_of(Organism, organism), url)

    found = await ask("ray", ray, PART_TIMEOUT_S)
    if any(f.status == "failed" for f in found):
        return [*found, failed("serve", "not asked: Ray cannot be reached", "see ray")]
    return found + await ask("serve", serve, PART_TIMEOUT_S)


async def block_of(kind: type[B], name: str) -> B:
    """Return the named block, or the default values if the block ``default`` cannot be loaded.

    That Prefect does not answer is a finding of its own.
    """
    try:
        return await kind.named(name)
    except Exception:
        if name != "default":
            raise
        return kind()
