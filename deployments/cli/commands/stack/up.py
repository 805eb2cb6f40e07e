"""`organism up`."""

from __future__ import annotations

from organism_flows.deployments.cli.options import Now, WhenIdle, when_replaced
from organism_flows.deployments.cli.output import AsJson, progress_display, show


async def up(*, when_idle: WhenIdle = False, now: Now = False, as_json: AsJson = False) -> None:
    """Start the stack on this machine, or join the one that runs.

    If the handlers' code or the organism's configuration has changed, the organism is deployed again. Before
    that, it prints what is replaced, what runs there and what it costs. Running tasks have the drain_s of
    their organ to end, unless you give --when-idle or --now.

    The stack is Postgres, Ray with the organism, a Prefect server with our deployments, a worker that runs
    them, and the gateway. All listen on loopback only, and their data is in ORGANISM_HOME. With ORGANISM_DSN
    set, that database is used and no Postgres is started. ORGANISM_WORKER=false leaves out the worker,
    ORGANISM_GATEWAY=false the gateway.
    Ports: ORGANISM_PREFECT_PORT, ORGANISM_DASHBOARD_PORT, ORGANISM_HTTP_PORT, ORGANISM_GATEWAY_PORT.
    """
    import time

    from organism_flows.blocks.settings import load_settings
    from organism_flows.deployments.stack.local import start
    from organism_flows.serve_apps.organism.release.replacement import summary

    started = time.monotonic()
    settings = load_settings()
    with progress_display(as_json) as progress:
        stack, joined, changes = await start(settings, when=when_replaced(when_idle, now), progress=progress)
    seconds = time.monotonic() - started
    headline = f"already running; {summary(changes)}" if joined else f"up after {seconds:.1f} s"
    lines = [
        f"Organism Flows is {headline}",
        f"  Prefect UI     {stack.prefect_ui_url}  (sign in: `organism ui prefect`)",
        f"  Ray dashboard  {stack.ray_dashboard_url}  (token: {stack.ray_token_path})",
        f"  Organism       {stack.organism_url}",
        *([f"  Board          {stack.gateway_url}/  (`organism ui` opens it)"] if stack.gateway_url else []),
        f"  Postgres       {stack.dsn or 'as in ORGANISM_DSN'}",
        f"  Data and logs  {stack.home}",
        "Next: `organism status`; `organism down` stops it and keeps the data",
    ]
    result = {
        "joined": joined,
        "seconds": round(seconds, 2),
        "changes": [change.model_dump(mode="json") for change in changes],
        **stack.model_dump(mode="json"),
    }
    show(result, as_json, "\n".join(lines))
