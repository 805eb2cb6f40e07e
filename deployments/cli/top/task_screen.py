"""One task: why it is where it is, what happened to it, what went in and what came out."""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from organism_flows.blocks.client.async_client import Client
from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.queue.explain import Why
from organism_flows.blocks.queue.models.operations import FINISHED
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.deployments.cli.top.cells import lines, moment, plain, span
from organism_flows.deployments.cli.top.steering import steer, why_not

POLL_S = 1.0
STATUS_STYLES = {
    "created": "dim",
    "queued": "cyan",
    "waiting": "cyan",
    "running": "bold blue",
    "completed": "green",
    "failed": "bold red",
    "cancelled": "dim",
    "retry": "yellow",
}


class TaskScreen(Screen[None]):
    """Shows a task until the reader leaves, and reads it again until it has ended.

    Args:
        client: The way to the queue.
        task: Id of the task.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape", "dismiss", "Back"),
        ("c", "steer('cancel')", "Cancel"),
        ("t", "steer('retry')", "Retry"),
        ("n", "steer('run')", "Run"),
        ("q", "app.quit", "Quit"),
    ]

    def __init__(self, client: Client, task: str) -> None:
        super().__init__()
        self._client = client
        self._task_id = task

    def compose(self) -> ComposeResult:
        """Return the one text of this screen."""
        with VerticalScroll():
            yield Static(Text("reading …", style="dim"), id="task")
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        self._read()

    @work(exclusive=True, group="read-task")
    async def _read(self) -> None:
        shown = self.query_one("#task", Static)
        while True:
            try:
                task = await self._client.get(self._task_id)
                why = await self._client.why(task.id)
                shown.update(_described(task, why))
                if task.status in FINISHED:
                    return
            except OrganismError as error:
                shown.update(Text(why_not(error), style="bold red"))
            await asyncio.sleep(POLL_S)

    @work
    async def action_steer(self, how: str) -> None:
        """Cancel, retry or run the task."""
        await steer(self.app, self._client, self._task_id, how)
        self._read()


def _described(task: TaskRow, why: Why) -> Group:
    facts = Table.grid(padding=(0, 2))
    rows: list[tuple[str, Text]] = [
        ("status", Text.assemble((task.status, STATUS_STYLES[task.status]), f", attempt {task.attempts} of "
                                 f"{task.max_attempts}")),
        ("created", Text(moment(task.created_at))),
        ("finished", Text(moment(task.finished_at) if task.finished_at else "")),
        ("took", Text(span(task.elapsed_ms / 1000) if task.elapsed_ms is not None else "")),
        *((name, plain(getattr(task, name) or "")) for name in ("domain", "key", "dedup_key", "organ_id")),
        ("trace", plain(task.traceparent or "")),
        ("waits for", plain(task.waits_for.event if task.waits_for else "")),
        ("held by", plain(task.locked_by or "")),
    ]  # fmt: skip
    for name, value in rows:
        if value.plain:
            facts.add_row(Text(name, style="dim"), value)
    parts: list[Any] = [
        Text.assemble((str(plain(task.type)), "bold"), f"  {task.id}\n"),
        lines(why.sentence),
        *([Text.assemble(("→ ", "dim"), lines(why.next_step))] if why.next_step else []),
        Text(),
        facts,
    ]
    if task.error:
        parts += [_heading("Error"), lines(task.error)]
    if task.history:
        attempts = Table.grid(padding=(0, 2))
        for one in task.history:
            attempts.add_row(
                Text(str(one.attempt)),
                Text(moment(one.ended_at)),
                plain(one.cause),
                plain(one.lane or ""),
                plain(one.error or "", 120),
                plain(one.reach),
            )
        parts += [_heading("Attempts that did not complete it"), attempts]
    if task.log:
        parts += [_heading("Log"), lines(task.log)]
    for name, value in (("Params", task.params), ("Result", task.result)):
        if value not in (None, {}):
            parts += [_heading(name), lines(json.dumps(value, indent=2, ensure_ascii=False))]
    return Group(*parts)


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")
