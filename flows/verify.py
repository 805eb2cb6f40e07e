"""verify: check every part of the system, and say what to do about each that does not work."""

from __future__ import annotations

from datetime import datetime

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from organism_flows.blocks.finding import Finding
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.flows.alerting.notify import notify_about_verification
from organism_flows.flows.prefect_support.markdown import BoardLinks
from organism_flows.flows.prefect_support.states import ORGANISM_TAG, current_run, show_page
from organism_flows.flows.verification.runner import block_of, verify_all
from organism_flows.flows.verification.thresholds import Thresholds
from organism_flows.flows.verification.verification import Check, Verification, markdown, run_check

USUAL = Thresholds()
TRUST_NODES_S = 3600.0
"""Time for which a run that a schedule has started trusts what a Ray node has answered, in seconds."""


async def _board(queue: str) -> str:
    """Return a link to the board, or nothing if no gateway of the queue is known."""
    try:
        dsn = (await block_of(TaskQueue, queue)).open().dsn
    except Exception:  # a finding says what is wrong with the block
        return ""
    return BoardLinks(dsn).page("Lanes and organism on the board", "system")


@task(name="check", task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False, retries=0)
async def check_part(name: str, check: Check, timeout_s: float) -> list[Finding]:
    """Run the check of one part of the system, and return its findings."""
    return await run_check(name, check, timeout_s=timeout_s)


@flow(
    name="verify",
    version=ORGANISM_TAG,
    flow_run_name=lambda: f"verify · {datetime.now():%H:%M}",
    persist_result=False,
    retries=0,
)
async def verify(
    limits: Thresholds = USUAL,
    canary: bool = True,
    queue: str = "default",
    organism: str = "default",
    cluster: str = "default",
) -> Verification:
    """Check settings, Postgres, queue, lanes, Ray, Serve, the organism and Prefect, and send a canary task.

    A run that a schedule has started asks a Ray node for its versions once an hour. Any other run asks all.

    Args:
        limits: Thresholds beyond which a finding is degraded.
        canary: Send a task through the whole system.
        queue: Name of the Task Queue block.
        organism: Name of the Organism block.
        cluster: Name of the Ray Cluster block.

    Returns:
        All findings. The run ends as `Failed` when a check failed, and its message names the check. A
        degraded check is named in the message of a completed run.
    """
    run = current_run()
    scheduled = bool(run and run.auto_scheduled)
    found = await verify_all(
        queue=queue,
        organism=organism,
        ray_cluster=cluster,
        limits=limits,
        with_canary=canary,
        trust_nodes_s=TRUST_NODES_S if scheduled else 0.0,
        ask=check_part,
    )
    page = f"**{found.line}**\n\n{markdown(found.findings)}\n\n{await _board(queue)}"
    await show_page(page, key="verification")
    notified = await notify_about_verification(found, queue)
    if notified.trouble:
        get_run_logger().warning(notified.trouble)
    if found.status == "failed":
        return Failed(message=found.line)  # type: ignore[return-value]
    return Completed(message=found.line, data=found)  # type: ignore[return-value]
