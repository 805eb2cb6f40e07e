"""`organism handlers check` and `schema`: check the organism's configuration before it is deployed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cyclopts import App

from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.options import ConfigFile
from organism_flows.deployments.cli.output import AsJson, show

if TYPE_CHECKING:
    from organism_flows.serve_apps.organism.config import OrganConfig

handlers = App(name="handlers", help="Check the organism's configuration and its handlers.")


@handlers.command(name="check")
async def check(
    *,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> int:
    """Import every handler as a replica would, and show which cannot be used and why.

    Exits with 1 if there is one. The handlers' modules are imported in this process, with all their effects.
    """
    from organism_flows.blocks.errors import ConfigurationError
    from organism_flows.blocks.settings import load_settings
    from organism_flows.deployments.stack.organism_app import load
    from organism_flows.serve_apps.organism.handler_api.loading import extend_import_path, load_handler

    app = await load(load_settings(), config)
    extend_import_path([*app.config.python_path, *app.python_path])
    rows: list[dict[str, Any]] = []
    for organ in app.config.organs:
        row = {"organ": organ.id, "task_types": organ.task_types, "domains": organ.domains}
        try:
            handler = load_handler(organ)
        except ConfigurationError as error:
            rows.append({**row, "handler": organ.handler, "ok": False, "problem": error.what})
        else:
            form = "async" if handler.is_async else "plain"
            found = {"form": form, "runs": _runs(organ, is_async=handler.is_async), "batch": organ.batch}
            rows.append({**row, "handler": organ.handler, "ok": True, **found, "problem": None})
    show({"config": app.path, "handlers": rows}, as_json, "\n".join(map(_line, rows)))
    return ExitCode.DONE if all(row["ok"] for row in rows) else ExitCode.FAILED


@handlers.command(name="schema")
def schema(*, as_json: AsJson = False) -> None:
    """Print the JSON Schema of the configuration, for editors and other tools; with --json on one line."""
    import json

    from organism_flows.serve_apps.organism.config import OrganismConfig

    found = OrganismConfig.model_json_schema()
    show(found, as_json, json.dumps(found, indent=2))


def _line(row: dict[str, Any]) -> str:
    if not row["ok"]:
        return f"✗ {row['problem']}"
    domains = f" for {', '.join(row['domains'])}" if row["domains"] else ""
    batch = ", in batches" if row["batch"] else ""
    how = f"{row['form']}, {row['runs']}{batch}"
    return f"✓ {row['organ']}: {', '.join(row['task_types'])}{domains} → {row['handler']} ({how})"


def _runs(organ: OrganConfig, *, is_async: bool) -> str:
    """Return where calls of the organ's handler run, and how many at the same time on one replica."""
    many = organ.concurrency
    if organ.processes:
        return f"in up to {many} processes"
    return f"up to {many} at once on the event loop" if is_async else f"in up to {many} threads"
