"""`organism tasks cancel`, `run`, `retry`, `pause`, `resume` and `policy`: control tasks."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from cyclopts import Parameter

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.validation import first_error
from organism_flows.deployments.cli.commands.tasks.events import link, signal
from organism_flows.deployments.cli.commands.tasks.reads import tasks
from organism_flows.deployments.cli.commands.tasks.stream import stream_task
from organism_flows.deployments.cli.commands.tasks.wait import wait_for_tasks
from organism_flows.deployments.cli.exit_codes import ExitCode
from organism_flows.deployments.cli.options import OfDomain, OfType
from organism_flows.deployments.cli.output import AsJson, show
from organism_flows.deployments.cli.own_queue import ids_of, open_queue

tasks.command(wait_for_tasks, name="wait")
tasks.command(stream_task, name="stream")


@tasks.command(name="cancel")
async def cancel(*ids: str, as_json: AsJson = False) -> int:
    """Cancel tasks: waiting tasks at once, and running tasks by asking their handlers to stop.

    Exits with 1 if one of them had ended already.

    Args:
        ids: Ids of the tasks, or the beginnings of ids.
        as_json: Print the result as JSON.
    """
    async with open_queue() as queue:
        found = await ids_of(queue, ids)
        done = await queue.operator.cancel(found)
    _show_groups(
        {"cancelled": done.cancelled, "requested": done.requested, "unchanged": done.unchanged},
        as_json,
        requested="running, asked to stop",
        unchanged="had ended already",
    )
    return ExitCode.FAILED if done.unchanged else ExitCode.DONE


@tasks.command(name="run")
async def run(*ids: str, as_json: AsJson = False) -> int:
    """Queue tasks that were submitted to be run later and have the status ``created``.

    Exits with 1 if one of them has another status.

    Args:
        ids: Ids of the tasks, or the beginnings of ids.
        as_json: Print the result as JSON.
    """
    async with open_queue() as queue:
        found = await ids_of(queue, ids)
        started = await queue.operator.start(found)
    unchanged = [task_id for task_id in found if task_id not in started]
    _show_groups({"queued": started, "unchanged": unchanged}, as_json)
    return ExitCode.FAILED if unchanged else ExitCode.DONE


@tasks.command(name="retry")
async def retry(*ids: str, as_json: AsJson = False) -> int:
    """Queue failed or cancelled tasks again, with all their attempts. Their history stays.

    Exits with 1 if one of them was neither, or an unfinished task has its dedup key.

    Args:
        ids: Ids of the tasks, or the beginnings of ids.
        as_json: Print the result as JSON.
    """
    async with open_queue() as queue:
        found = await ids_of(queue, ids)
        done = await queue.operator.retry(found)
    _show_groups(
        {"queued": done.retried, "unchanged": done.unchanged, "duplicates": done.duplicates}, as_json
    )
    return ExitCode.FAILED if done.unchanged or done.duplicates else ExitCode.DONE


tasks.command(signal, name="signal")
tasks.command(link, name="link")


@tasks.command(name="pause")
async def pause(
    *,
    type: OfType = None,
    domain: OfDomain = None,
    reason: Annotated[str | None, Parameter(help="Shown to whoever asks why tasks wait.")] = None,
    as_json: AsJson = False,
) -> None:
    """Claim no more tasks of a type or domain; running tasks go on. Without either, list what is paused."""
    async with open_queue() as queue:
        if type is None and domain is None:
            pauses = await queue.operator.pauses()
            lines = [
                f"{p.kind} {p.name}, since {p.paused_at:%Y-%m-%d %H:%M:%S %Z}"
                + (f": {p.reason}" if p.reason else "")
                for p in pauses
            ]
            shown = {"pauses": [p.model_dump(mode="json") for p in pauses]}
            show(shown, as_json, "\n".join(lines) or "nothing is paused")
            return
        kind, name = _one_of(type, domain)
        await queue.operator.pause(kind, name, reason=reason)
    show({"paused": {kind: name}}, as_json, f"{kind} {name} is paused; `organism tasks resume` ends it")


@tasks.command(name="resume")
async def resume(*, type: OfType = None, domain: OfDomain = None, as_json: AsJson = False) -> None:
    """Claim the tasks of a paused type or domain again."""
    kind, name = _one_of(type, domain)
    async with open_queue() as queue:
        if not await queue.operator.resume(kind, name):
            raise ConfigurationError(f"{kind} {name} is not paused", "`organism tasks pause` lists what is")
    show({"resumed": {kind: name}}, as_json, f"{kind} {name} is claimed again")


@tasks.command(name="policy")
async def policy(
    type: str | None = None,
    /,
    *,
    max_attempts: Annotated[int | None, Parameter(help="Attempts before a task is a dead letter.")] = None,
    timeout: Annotated[float | None, Parameter(help="Seconds an attempt may take.")] = None,
    backoff_base: Annotated[float | None, Parameter(help="Seconds before the second attempt.")] = None,
    backoff_cap: Annotated[float | None, Parameter(help="Longest seconds between attempts.")] = None,
    max_interruptions: Annotated[
        int | None,
        Parameter(help="Interruptions after which a task is a dead letter; unset: none is too many."),
    ] = None,
    max_snoozes: Annotated[
        int | None,
        Parameter(help="How often a handler may put a task off before it is a dead letter; unset: 100."),
    ] = None,
    cost: Annotated[
        float | None, Parameter(help="Estimate of what a task spends, in units of limits on cost; unset: 1.")
    ] = None,
    key_path: Annotated[
        str | None, Parameter(help="Where params have the key of a task without one: params.customer_id.")
    ] = None,
    cost_path: Annotated[
        str | None, Parameter(help="Where params have the cost of a task without one: params.max_tokens.")
    ] = None,
    aging: Annotated[
        float | None,
        Parameter(help="Seconds of waiting that count as one more priority; unset: a priority stays."),
    ] = None,
    affinity: Annotated[
        float | None,
        Parameter(help="Run tasks of one key together; those of other keys wait about so many seconds."),
    ] = None,
    affinity_keys: Annotated[
        int | None, Parameter(help="Keys that a lane claims at a time, with --affinity; unset: 2.")
    ] = None,
    earliest_deadline: Annotated[
        bool, Parameter(negative="", help="Of equals, claim first what expires first.")
    ] = False,
    timeout_by_deadline: Annotated[
        bool, Parameter(negative="", help="Stop an attempt when its task expires.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Set the policy of a type, for tasks that have no values of their own. Without a type, list policies.

    It applies at once, to waiting tasks as well. Values that are not given go back to their defaults.
    """
    from pydantic import ValidationError

    from organism_flows.blocks.queue import TypePolicy

    async with open_queue() as queue:
        if type is not None:
            fields: dict[str, Any] = {
                "max_attempts": max_attempts,
                "timeout_s": timeout,
                "backoff_base_s": backoff_base,
                "backoff_cap_s": backoff_cap,
                "max_interruptions": max_interruptions,
                "max_snoozes": max_snoozes,
                "cost": cost,
                "key_path": key_path,
                "cost_path": cost_path,
                "aging_s": aging,
                "affinity_s": affinity,
                "affinity_keys": affinity_keys,
                "earliest_deadline": earliest_deadline,
                "timeout_by_deadline": timeout_by_deadline,
            }
            try:
                await queue.operator.set_policy(TypePolicy(type=type, **fields))
            except ValidationError as error:
                raise ConfigurationError(
                    first_error(error, with_value=True), "choose another value"
                ) from None
        policies = await queue.operator.policies()
    lines = [
        f"{p.type}: "
        + (
            ", ".join(_said(k, v) for k, v in p if k != "type" and v is not None and v is not False)
            or "defaults"
        )
        for p in policies
    ]
    shown = {"policies": [p.model_dump(mode="json") for p in policies]}
    show(shown, as_json, "\n".join(lines) or "no type has a policy of its own")


def _said(name: str, value: Any) -> str:
    if value is True:
        return name
    return f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}"


def _show_groups(groups: dict[str, list[UUID]], as_json: bool, **words: str) -> None:
    usual = {"unchanged": "left as it is", "duplicates": "an unfinished task has its dedup key"} | words
    lines = [f"{i}  {usual.get(kind, kind)}" for kind, group in groups.items() for i in group]
    show({kind: [str(i) for i in group] for kind, group in groups.items()}, as_json, "\n".join(lines))


def _one_of(type: str | None, domain: str | None) -> tuple[Any, str]:
    if (type is None) == (domain is None):
        raise ConfigurationError("name either a type or a domain", "add --type or --domain")
    return ("type", type) if type is not None else ("domain", domain)  # type: ignore[return-value]
