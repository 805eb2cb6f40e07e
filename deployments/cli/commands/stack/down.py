"""`organism down`."""

from __future__ import annotations

from organism_flows.deployments.cli.output import AsJson, progress_display, show


async def down(*, as_json: AsJson = False) -> None:
    """Stop the stack; its data stays.

    Every process of the stack in ORGANISM_HOME is stopped, including those that a killed `organism up` left.
    A running `organism up` is asked to stop first.
    """
    from organism_flows.blocks.settings import load_settings
    from organism_flows.deployments.stack.local import stop

    settings = load_settings()
    with progress_display(as_json) as progress:
        stopped = await stop(settings, progress=progress)
    text = (
        f"Organism Flows is stopped after {stopped.seconds:.1f} s; its data stays in {settings.home}"
        if stopped.was_running
        else f"nothing was running in {settings.home}"
    )
    show(stopped, as_json, text)
