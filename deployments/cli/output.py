"""Output of commands: results on standard output, as text or JSON, and progress on standard error."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from pydantic import BaseModel

    from organism_flows.deployments.stack.progress import Event

AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
"""The type of every command's ``as_json`` parameter."""

WORDS = {
    "starting": "starting",
    "ready": "ready",
    "kept": "already running",
    "stopping": "stopping",
    "stopped": "stopped",
    "failed": "failed",
}
COLOURS = {
    "ready": "green",
    "kept": "green",
    "stopped": "green",
    "failed": "red",
    "starting": "yellow",
    "stopping": "yellow",
}
SIGNS = {"ready": "✓", "kept": "✓", "stopped": "✓", "failed": "✗"}


def show(result: BaseModel | dict[str, Any], as_json: bool, text: str) -> None:
    """Print a command's result to standard output.

    Args:
        result: The result, for JSON.
        as_json: Print JSON instead of the text.
        text: The result as text.
    """
    if not as_json:
        print(without_controls(text))
    elif isinstance(result, dict):
        import json

        print(_json(json.dumps(result, ensure_ascii=False, default=str)))
    else:
        print(_json(result.model_dump_json()))


def without_controls(text: str) -> str:
    """Return ``text`` with every character escaped that controls a terminal, except line ends and tabs."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _json(text: str) -> str:
    # These occur only within strings, where JSON has this escape. The encoder does not escape DEL and C1.
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


# C0 and C1, DEL, and characters that change the direction of text or hide it.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


class ProgressLines:
    """Progress with each event on a line of its own, for logs and pipes."""

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __call__(self, event: Event) -> None:
        if event.phase == "note":
            print(event.detail, file=sys.stderr, flush=True)
            return
        seconds = f" ({event.seconds:.1f} s)" if event.seconds >= 0.05 else ""
        detail = f": {event.detail}" if event.detail else ""
        print(f"{event.component}: {WORDS[event.phase]}{seconds}{detail}", file=sys.stderr, flush=True)


class ProgressTable:
    """Progress with one row for each component, updated in place, for terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        self._rows: dict[str, tuple[Event, float]] = {}
        self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=10)

    def __enter__(self) -> ProgressTable:
        self._live.__enter__()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._live.__exit__(kind, error, trace)

    def __call__(self, event: Event) -> None:
        import time

        if event.phase == "note":
            self._console.print(event.detail, markup=False, style="dim")
        else:
            self._rows[event.component] = (event, time.monotonic())

    def _table(self) -> Any:
        import time

        from rich.spinner import Spinner
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        for name, (event, at) in self._rows.items():
            colour = COLOURS[event.phase]
            busy = event.phase in ("starting", "stopping")
            seconds = event.seconds + (now - at if busy else 0.0)
            sign: Any = Spinner("dots", style=colour) if busy else Text(SIGNS[event.phase], style=colour)
            table.add_row(
                sign,
                name,
                Text(WORDS[event.phase], style=colour),
                f"{seconds:.1f} s" if busy or seconds >= 0.05 else "",
                Text(event.detail, style="dim", overflow="ellipsis", no_wrap=True),
            )
        return table


def progress_display(as_json: bool) -> ProgressTable | ProgressLines:
    """Return a table if standard error is a terminal, and else lines."""
    if sys.stderr.isatty() and not as_json:
        return ProgressTable()
    return ProgressLines()


def show_error(what: str, next_step: str, as_json: bool) -> None:
    """Show on one line what went wrong and what to do next."""
    # A name in a message must not control the terminal.
    what, next_step = _printable(what), _printable(next_step)
    with contextlib.suppress(OSError):
        if as_json:
            import json

            print(json.dumps({"error": what, "next_step": next_step}, ensure_ascii=False), flush=True)
        else:
            arrow = f" → {next_step}" if next_step else ""
            print(f"error: {what}{arrow}", file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    one_line = " ".join(text.split())
    return "".join(character if character.isprintable() else "�" for character in one_line)
