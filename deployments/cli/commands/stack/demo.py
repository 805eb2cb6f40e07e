"""`organism demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.output import AsJson, progress_display, show

if TYPE_CHECKING:
    from organism_flows.blocks.local_stack.stack_state import StackState
    from organism_flows.deployments.cli.demo import DemoReport


async def demo(
    *,
    keep: Annotated[bool, Parameter(negative="", help="Leave the stack up.")] = False,
    as_json: AsJson = False,
) -> int:
    """Start the stack, measure this Python's standard library with it, and stop it again.

    One task for each module goes through the tasks table, a Prefect flow, a lane on Ray and a Serve replica.
    So do four tasks that must fail. Exits with 1 if a result is not as expected. If a stack is up already, it
    is used and not stopped.
    """
    from organism_flows.blocks.settings import load_settings
    from organism_flows.deployments.cli.demo import run
    from organism_flows.deployments.stack.local import start, stop

    settings = load_settings()
    with progress_display(as_json) as progress:
        # The demo uses neither a worker, which would start scheduled runs, nor a gateway.
        alone = settings.model_copy(update={"worker": False, "gateway": False})
        stack, joined, _ = await start(alone, progress=progress)
    try:
        with _Bar(as_json) as bar:
            report = await run(settings, bar)
        kept = keep or joined
        result = {**report.model_dump(), "kept": kept, "addresses": _addresses(stack)}
        show(result, as_json, _text(report, stack, kept=kept))
        return ExitCode.FAILED if report.surprises else ExitCode.DONE
    finally:
        if not keep and not joined:
            with progress_display(as_json) as progress:
                await stop(settings, progress=progress)


class _Bar:
    """Progress of the tasks: a bar on a terminal, and else a line for each tenth."""

    def __init__(self, as_json: bool) -> None:
        import sys

        self._terminal = sys.stderr.isatty() and not as_json
        self._shown = -1

    def __enter__(self) -> _Bar:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("tasks"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=Console(stderr=True),
            )
            self._progress.start()
            self._bar = self._progress.add_task("tasks")
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._terminal:
            self._progress.update(self._bar, completed=done, total=total)
        elif (tenth := 10 * done // max(total, 1)) > self._shown:
            import sys

            self._shown = tenth
            print(f"tasks: {done} of {total}", file=sys.stderr, flush=True)


def _addresses(stack: StackState) -> dict[str, Any]:
    return {
        "prefect_ui": stack.prefect_ui_url,
        "ray_dashboard": stack.ray_dashboard_url,
        "ray_token": str(stack.ray_token_path),
        "organism": stack.organism_url,
    }


def _text(report: DemoReport, stack: StackState, *, kept: bool) -> str:
    statuses = ", ".join(f"{count} {status}" for status, count in sorted(report.by_status.items()))
    lines = [
        f"{report.submitted} tasks submitted: {statuses}",
        f"{report.lines:,} lines of Python measured in {report.seconds:.1f} s, "
        f"{report.tasks_per_second:g} tasks/s",
        f"handler time      p50 {report.handler_ms_p50:.1f} ms   p99 {report.handler_ms_p99:.1f} ms",
        f"submitted → done  p50 {report.queued_to_done_s_p50:.1f} s  p99 {report.queued_to_done_s_p99:.1f} s",
        "",
        "Most complex functions (cyclomatic complexity):",
        *(f"  {f.complexity:4}  {f.function}  {f.path}:{f.line}" for f in report.most_complex),
        "",
        "Failed, as they should:" if not report.surprises else "Failed:",
        *(
            f"  {f.type:13} attempt {f.attempts}: {f.error.splitlines()[0] if f.error else '-'}"
            for f in report.failures
        ),
        "",
    ]
    if report.surprises:
        lines += ["Not as submitted:", *(f"  {line}" for line in report.surprises), ""]
    lines += [
        f"Prefect UI     {stack.prefect_ui_url}",
        f"Ray dashboard  {stack.ray_dashboard_url}  (token: {stack.ray_token_path})",
        f"Organism       {stack.organism_url}/health",
    ]
    lines.append(
        "The stack stays up; `organism down` stops it"
        if kept
        else "Stopping the stack; see these pages with `organism demo --keep` or `organism up`"
    )
    return "\n".join(lines)
