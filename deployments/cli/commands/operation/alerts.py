"""`organism alerts`: list, create or delete the alerts in Prefect."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from organism_flows.deployments.cli.output import AsJson, show

alerts = App(
    name="alerts",
    help="Switch alerts on or off: automations in Prefect that notify you when something is wrong.",
)


@alerts.default
async def listed(*, as_json: AsJson = False) -> None:
    """List the alerts: whether each is on, where it goes, and what is wrong now."""
    # Importing flows points Prefect and Ray at the embedded stack, so it comes before Prefect.
    import organism_flows.flows.alerting.automations as automations

    _show(await automations.state(), as_json)


@alerts.command(name="on")
async def on(
    *,
    to: Annotated[
        str | None,
        Parameter(
            help="A notification block, slack-webhook/ops; unset: ORGANISM_ALERTS, then the one in use."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create or update the alerts. An alert that was switched off in the UI stays off."""
    import organism_flows.flows.alerting.automations as automations
    from organism_flows.blocks.settings import load_settings

    applied = await automations.apply(to or load_settings().alerts)
    _show(applied.alerts, as_json, made=applied.made, changed=applied.changed)


@alerts.command(name="off")
async def off(*, as_json: AsJson = False) -> None:
    """Delete the alerts. To silence one of them for a while, switch it off in the Prefect UI."""
    import organism_flows.flows.alerting.automations as automations

    removed = await automations.remove()
    show({"removed": removed}, as_json, "\n".join(f"deleted {name}" for name in removed) or "there were none")


def _show(found: list[Any], as_json: bool, **changes: list[str]) -> None:
    marks = {name: f"  {what}" for what, names in changes.items() for name in names}
    lines = [
        f"{'on ' if alert.on else 'off'}  {alert.name}, to {alert.to or 'a block that is gone'}"
        f"{marks.get(alert.name, '')}{f': {alert.wrong}' if alert.wrong else ''}"
        for alert in found
    ]
    result = {"alerts": [alert.model_dump() for alert in found], **changes}
    show(result, as_json, "\n".join(lines) or "there are none: `organism alerts on --to slack-webhook/ops`")
