"""`organism up`."""

from __future__ import annotations

from organism_flows.deployments.cli.output import AsJson, Now, WhenIdle, progress_display, show, when_replaced


async def up(*, when_idle: WhenIdle = False, now: Now = False, as_json: AsJson = False) -> None:
    """Start the stack on this machine, or join the one that runs.

    If handlers' code or the organism's configuration changed, it is deployed again. What that replaces, what
    runs there and what it costs is said first. Tasks that run have the drain_s of their organ to end, unless
    --when-idle or --now says otherwise.

    Postgres, Ray with the organism on it, a Prefect server with our deployments, a worker that runs them, and
    the gateway, all on loopback, with their data in ORGANISM_HOME. With ORGANISM_DSN set, that database is
    used and no Postgres is started; ORGANISM_WORKER=false leaves the worker out, ORGANISM_GATEWAY=false the
    gateway.
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
        f"  Prefect UI     {stack.prefect_ui_url}  (sign in: `organism ui`)",
        f"  Ray dashboard  {stack.ray_dashboard_url}  (token: {stack.ray_token_path})",
        f"  Organism       {stack.organism_url}",
        *([f"  Gateway        {stack.gateway_url}"] if stack.gateway_url else []),
        f"  Postgres       {stack.dsn or 'as ORGANISM_DSN says'}",
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
