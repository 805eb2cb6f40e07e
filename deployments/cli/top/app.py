"""The first screen of `organism top`: how everything stands, and the tables that lead to single tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar

from rich.table import Table
from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Sparkline, Static, TabbedContent, TabPane

from organism_flows.blocks.client.async_client import Client
from organism_flows.blocks.client.board_messages import (
    FailureGroupFigures,
    LoadFigures,
    Overview,
    PauseFigures,
    QueueFigures,
)
from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.queue import RedriveFilter, TaskFilter
from organism_flows.blocks.queue.models.rows import TaskSummary
from organism_flows.deployments.cli.top import filters
from organism_flows.deployments.cli.top.cells import duration, moment, number, plain
from organism_flows.deployments.cli.top.dialogs import Ask, Confirm
from organism_flows.deployments.cli.top.steering import steer, why_not
from organism_flows.deployments.cli.top.task_screen import STATUS_STYLES, TaskScreen

TASKS_SHOWN = 200
POLL_S = 2.0
ATTENTION_SHOWN = 4
LEVELS = {"bad": ("✗", "bold red"), "warn": ("!", "yellow"), "info": ("·", "dim")}
LANE_STYLES = {"live": "green", "silent": "bold red"}
COLUMNS: dict[str, Sequence[str]] = {
    "types": (
        "Type", "Ready", "Running", "Retrying", "Scheduled", "Waiting", "Dead 1 h",
        "Oldest", "Median", "95 %",
    ),
    "failures": ("Tasks", "Last", "Type", "Error"),
    "lanes": ("Lane", "State", "Heartbeat", "Holds", "Per s", "Settled", "Host"),
    "organs": ("Organ", "Handler", "Types", "Replicas", "In flight", "Waiting", "Completed", "Failed"),
    "tasks": ("Id", "Status", "Type", "Attempt", "Created", "Error"),
}  # fmt: skip


class TopApp(App[None]):
    """The terminal application around the screens.

    Args:
        client: The way to the queue.
        connected_to: What is shown, in words.
    """

    TITLE = "organism"
    ENABLE_COMMAND_PALETTE = False
    CSS_PATH = "top.tcss"

    def __init__(self, client: Client, connected_to: str) -> None:
        super().__init__()
        self._client = client
        self._connected_to = connected_to

    def get_default_screen(self) -> OverviewScreen:
        """Return the screen to begin with."""
        return OverviewScreen(self._client, self._connected_to)


class OverviewScreen(Screen[None]):
    """Shows how everything stands, again and again, also while another screen lies over it.

    Args:
        client: The way to the queue.
        connected_to: What is shown, in words.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "app.quit", "Quit"),
        ("enter", "open", "Open"),
        ("slash", "filter", "Filter tasks"),
        ("p", "pause", "Pause/resume type"),
        ("d", "redrive", "Redrive group"),
        ("c", "steer('cancel')", "Cancel"),
        ("t", "steer('retry')", "Retry"),
        *[Binding(str(n), f"show('{name}')", show=False) for n, name in enumerate(COLUMNS, 1)],
    ]

    def __init__(self, client: Client, connected_to: str) -> None:
        super().__init__()
        self.client = client
        self._connected_to = connected_to
        self._again = asyncio.Event()
        self._filter = TaskFilter()
        self._pauses: dict[str, PauseFigures] = {}
        self._groups: dict[str, FailureGroupFigures] = {}

    def compose(self) -> ComposeResult:
        """Return the figures above and the tables below."""
        yield Static(id="title")
        yield Static(Text("reading …", style="dim"), id="attention")
        yield Static(id="figures")
        yield Sparkline([], id="throughput")
        with TabbedContent(id="tabs"):
            for place, name in enumerate(COLUMNS, 1):
                with TabPane(f"{place} {name.capitalize()}", id=name), Vertical():
                    if name == "tasks":
                        yield Static(id="filter")
                    yield DataTable[Text](id=f"{name}-table", cursor_type="row", zebra_stripes=True)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to read."""
        for name, columns in COLUMNS.items():
            self._table(name).add_columns(*columns)
        self._table("types").focus()
        self._read()

    @work(exclusive=True, group="read")
    async def _read(self) -> None:
        while True:
            self._again.clear()
            pause = POLL_S
            try:
                overview = await self.client.overview()
                pause = max(POLL_S, overview.refresh_s)
                self._show(overview)
                await self._show_tab()
            except OrganismError as error:
                self._say(Text.assemble(("✗ ", "bold red"), why_not(error)))
            try:
                async with asyncio.timeout(pause):
                    await self._again.wait()
            except TimeoutError:
                pass

    async def _show_tab(self) -> None:
        match self.query_one("#tabs", TabbedContent).active:
            case "failures":
                groups = (await self.client.failures()).groups
                self._groups = {f"{one.type}\0{one.pattern}": one for one in groups}
                rows = [
                    (
                        key,
                        (
                            number(one.tasks),
                            plain(moment(one.last_at)),
                            plain(one.type, 40),
                            plain(one.error),
                        ),
                    )
                    for key, one in self._groups.items()
                ]
                self._fill("failures", rows)
            case "tasks":
                shown: list[TaskSummary] = []
                async for task in self.client.tasks(self._filter):
                    shown.append(task)
                    if len(shown) >= TASKS_SHOWN:
                        break
                said = filters.text_of(self._filter) or "all"
                self.query_one("#filter", Static).update(
                    Text.assemble(
                        (f"{len(shown)} newest tasks: ", "dim"), plain(said), ("  (/ filters)", "dim")
                    )
                )
                self._fill("tasks", [(str(task.id), _task_cells(task)) for task in shown])

    def _show(self, overview: Overview) -> None:
        title = f"organism {overview.version} · {self._connected_to} · {moment(overview.at)}"
        self.query_one("#title", Static).update(Text(title, style="dim"))
        shown = [
            Text.assemble(
                (f"{LEVELS[one.level][0]} ", LEVELS[one.level][1]),
                plain(one.what),
                (f" → {plain(one.next_step)}" if one.next_step else "", "dim"),
                overflow="ellipsis",
                no_wrap=True,
            )
            for one in overview.attention[:ATTENTION_SHOWN]
        ]
        if not any(one.level != "info" for one in overview.attention):
            shown.insert(0, Text.assemble(("✓ ", "bold green"), "All is well"))
        if len(overview.attention) > ATTENTION_SHOWN:
            shown.append(Text(f"  and {len(overview.attention) - ATTENTION_SHOWN} more", style="dim"))
        self._say(Text("\n").join(shown))
        organs = [
            (one.id, (
                plain(one.id, 30), plain(one.handler or "–", 40), plain(", ".join(one.task_types), 40),
                number(one.replicas), number(one.in_flight), number(one.waiting), number(one.completed),
                number(one.failed, style="red"),
            ))
            for one in overview.organism.organs
        ]  # fmt: skip
        self._fill("organs", organs)
        if overview.queue is not None:
            self._show_queue(overview, overview.queue)

    def _show_queue(self, overview: Overview, queue: QueueFigures) -> None:
        throughput = overview.throughput
        figures = Table.grid(padding=(0, 3))
        total = queue.latency.total_ms if queue.latency else None
        more = any(one.more for one in queue.types)
        shown: list[tuple[str, Text]] = [
            (name, number(sum(getattr(one, name) for one in queue.types), more=more and name != "running"))
            for name in ("ready", "running", "retrying", "scheduled", "waiting")
        ]
        shown += [
            ("dead letters", number(queue.dead, more=queue.dead_more, style="bold red")),
            ("completed/s", number(throughput.completed_per_s)),
            ("failed/s", number(throughput.failed_per_s, style="bold red")),
            ("submit to done", duration(total[0] / 1000 if total else None)),
            ("95 %", duration(total[1] / 1000 if total else None)),
        ]
        figures.add_row(*[Text(name, style="dim") for name, _ in shown])
        figures.add_row(*[value for _, value in shown])
        self.query_one("#figures", Static).update(figures)
        self.query_one("#throughput", Sparkline).data = [one.completed for one in throughput.points]
        self._pauses = {one.name: one for one in queue.pauses if one.kind == "type"}
        busiest = sorted(
            queue.types, key=lambda one: (-(one.ready + one.running + one.dead_last_hour), one.name)
        )
        self._fill("types", [(one.name, self._type_cells(one)) for one in busiest])
        lanes = [
            (one.id, (
                plain(one.id, 40), Text(one.state, style=LANE_STYLES.get(one.state, "yellow")),
                duration(one.heartbeat_s), number(one.held), number(one.per_s), number(one.settled),
                plain(f"{one.host}, pid {one.pid}", 40),
            ))
            for one in queue.lanes
        ]  # fmt: skip
        self._fill("lanes", lanes)

    def _type_cells(self, one: LoadFigures) -> tuple[Text, ...]:
        name = plain(one.name, 40)
        if one.name in self._pauses:
            name.append("  paused", style="yellow")
        total = one.latency.total_ms if one.latency else None
        return (
            name,
            number(one.ready, more=one.more),
            number(one.running),
            number(one.retrying, more=one.more),
            number(one.scheduled, more=one.more),
            number(one.waiting, more=one.more),
            number(one.dead_last_hour, style="bold red"),
            duration(one.oldest_ready_s),
            duration(total[0] / 1000 if total else None),
            duration(total[1] / 1000 if total else None),
        )

    def _say(self, text: Text) -> None:
        self.query_one("#attention", Static).update(text)

    def _table(self, name: str) -> DataTable[Text]:
        return self.query_one(f"#{name}-table", DataTable)

    def _fill(self, name: str, rows: Sequence[tuple[str, Sequence[Text]]]) -> None:
        """Replace the rows of a table. The cursor stays on its row as long as that is there."""
        table = self._table(name)
        chosen, place = self._chosen(name), table.cursor_row
        table.clear()
        for key, cells in rows:
            table.add_row(*cells, key=key)
        keys = [key for key, _ in rows]
        table.move_cursor(row=keys.index(chosen) if chosen in keys else min(place, len(keys) - 1))

    def _chosen(self, name: str) -> str | None:
        table = self._table(name)
        if not table.is_valid_row_index(table.cursor_row):
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    @property
    def _tab(self) -> str:
        return self.query_one("#tabs", TabbedContent).active

    def read_again(self) -> None:
        """Read now instead of after the pause: something has changed."""
        self._again.set()

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        """Read what the tab shows, and go to its table."""
        if event.pane.id:
            self._table(event.pane.id).focus()
        self.read_again()

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        """Open the row, by a click or by Enter."""
        self.action_open()

    def action_show(self, name: str) -> None:
        """Show a tab."""
        self.query_one("#tabs", TabbedContent).active = name

    def action_open(self) -> None:
        """Open what the cursor is on: a task, or the tasks of a type, lane or organ."""
        chosen = self._chosen(self._tab)
        if chosen is None:
            return
        match self._tab:
            case "types":
                self.show_tasks(TaskFilter(type=chosen))
            case "lanes":
                self.show_tasks(TaskFilter(lane=chosen))
            case "organs":
                self.show_tasks(TaskFilter(organ=chosen))
            case "failures":
                if (sample := self._groups[chosen].sample) is not None:
                    self.app.push_screen(TaskScreen(self.client, str(sample)), self._left)
            case "tasks":
                self.app.push_screen(TaskScreen(self.client, chosen), self._left)

    def _left(self, _: None) -> None:
        self.read_again()

    def show_tasks(self, filter: TaskFilter) -> None:
        """Show the tasks that match."""
        self._filter = filter
        self._table("tasks").clear()
        self.action_show("tasks")
        self.read_again()

    @work
    async def action_filter(self) -> None:
        """Ask which tasks to show."""
        question = Text(
            f"Which tasks? Words such as status=failed type=echo; fields: {', '.join(filters.FIELDS)}"
        )
        words = await self.app.push_screen_wait(Ask(question, value=filters.text_of(self._filter)))
        if words is None:
            return
        try:
            self.show_tasks(filters.filter_of(words))
        except OrganismError as error:
            self.notify(why_not(error), severity="error", markup=False)

    @work
    async def action_pause(self) -> None:
        """Pause the type that the cursor is on, or resume it."""
        name = self._chosen("types")
        if self._tab != "types" or name is None:
            self.notify("choose a type first", severity="warning")
        elif name in self._pauses:
            await self._do(f"{name} is claimed again", lambda: self.client.resume("type", name))
        else:
            question = Text.assemble("Pause ", plain(name), ": no task of it is claimed. Why?")
            reason = await self.app.push_screen_wait(
                Ask(question, placeholder="shown to whoever asks why tasks wait")
            )
            if reason is not None:
                pause = self.client.pause
                await self._do(f"{name} is paused", lambda: pause("type", name, reason=reason or None))

    @work
    async def action_redrive(self) -> None:
        """Queue the dead letters of a group again, after a dry run."""
        chosen = self._chosen("failures")
        if self._tab != "failures" or chosen is None:
            self.notify("choose a group of failures first", severity="warning")
            return
        group = self._groups[chosen]
        wanted = RedriveFilter(type=group.type, error=group.pattern)
        found = await self._do(None, lambda: self.client.redrive_all(wanted))
        if found is None:
            return
        question = Text.assemble(f"Queue {found.found:,} dead letters again?\n\n", plain(group.error))
        if await self.app.push_screen_wait(Confirm(question, "Redrive")):
            done = await self._do(None, lambda: self.client.redrive_all(wanted, dry_run=False))
            if done is not None:
                self.notify(f"{done.redriven:,} are queued again", markup=False)

    @work
    async def action_steer(self, how: str) -> None:
        """Cancel or retry the task that the cursor is on."""
        chosen = self._chosen("tasks")
        if self._tab != "tasks" or chosen is None:
            self.notify("choose a task first", severity="warning")
            return
        await steer(self.app, self.client, chosen, how)
        self.read_again()

    async def _do(self, done: str | None, action: Callable[[], Awaitable[Any]]) -> Any:
        """Return what an action returns. Say that it is done, or why it is not; then it is `None`."""
        try:
            result = await action()
        except OrganismError as error:
            self.notify(why_not(error), severity="error", markup=False)
            return None
        if done is not None:
            self.notify(str(plain(done)), markup=False)
        self.read_again()
        return result


def _task_cells(task: TaskSummary) -> tuple[Text, ...]:
    return (
        plain(task.id),
        Text(task.status, style=STATUS_STYLES[task.status]),
        plain(task.type, 40),
        number(task.attempts),
        plain(moment(task.created_at)),
        plain(task.error or "", style="red"),
    )
