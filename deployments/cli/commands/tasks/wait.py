"""`organism tasks wait`: wait until tasks have ended."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.output import AsJson, show
from organism_flows.deployments.cli.own_queue import ids_of, open_queue

if TYPE_CHECKING:
    from organism_flows.blocks.client.messages import WaitResult


async def wait_for_tasks(
    *ids: str,
    timeout: Annotated[float | None, Parameter(help="Longest wait in seconds; unset: no limit.")] = None,
    as_json: AsJson = False,
) -> int:
    """Wait until tasks have ended, and print each as it ends: its status, and its result or error.

    With `--json` each task is a line. Exits with 1 if one of them was not completed, or the time is up.

    Args:
        ids: Ids of the tasks, or the beginnings of ids.
        timeout: Longest wait in seconds.
        as_json: Print the results as JSON, one line a task.
    """
    from contextlib import aclosing

    from organism_flows.blocks.client.messages import WaitResult
    from organism_flows.blocks.errors import TaskNotFound
    from organism_flows.serve_apps.gateway.task_watcher import TaskWatcher

    async with open_queue() as queue:
        left = dict.fromkeys(await ids_of(queue, ids))
        code = ExitCode.DONE
        async with TaskWatcher(queue.reader.states) as tasks, aclosing(tasks.ends(left)) as ends:
            try:
                async with asyncio.timeout(timeout) as limit:
                    async for ended in ends:
                        for id, state in ended.items():
                            if state is None:
                                raise TaskNotFound(f"there is no task {id} any more", "it was deleted")
                            del left[id]
                            waited = WaitResult.of(await queue.get(str(id)))
                            _show(waited, as_json)
                            if waited.status != "completed":
                                code = ExitCode.FAILED
            except TimeoutError:
                if not limit.expired():  # one of a statement
                    raise
                code = ExitCode.FAILED
        for id in left:
            _show(WaitResult.of(await queue.get(str(id))), as_json)
    return code


def _show(waited: WaitResult, as_json: bool) -> None:
    import json

    # Not orjson, which refuses integers beyond 64 bits.
    said = json.dumps(waited.result, ensure_ascii=False) if waited.status == "completed" else waited.error
    if not waited.finished:
        said = f"has not ended: see `organism tasks why {waited.id}`"
    show(waited, as_json, f"{waited.id}  {waited.status:9}  {' '.join((said or '').split())}".rstrip())
    sys.stdout.flush()
