"""`organism limits`: what may run at once, or begin within a period."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import App, Parameter

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.validation import first_error
from organism_flows.deployments.cli.output import AsJson, show
from organism_flows.deployments.cli.own_queue import open_queue

if TYPE_CHECKING:
    from organism_flows.blocks.queue import Closure, ClosureName, Limit, LimitUse

Limited: TypeAlias = Annotated[str | None, Parameter(help="Name of a limit.")]
OfType: TypeAlias = Annotated[str | None, Parameter(help="A type, whose tasks with this key are meant.")]
OfKey: TypeAlias = Annotated[
    str, Parameter(help="The key; unset: tasks without one, or all tasks of a limit that is not by key.")
]
limits = App(
    name="limits", help="Limit what runs at once or begins within a period; close, open, weigh keys."
)


@limits.default
@limits.command(name="list")
async def list_limits(*, as_json: AsJson = False) -> None:
    """List the limits, with how much of each is used, what is closed, and the weights of keys."""
    async with open_queue() as queue:
        found = await queue.operator.limits()
        closures = await queue.operator.closures()
        weights = await queue.operator.weights()
    lines = [line for limit in found for line in _lines(limit)] or ["there are no limits"]
    lines += [_closed(closure) for closure in closures]
    lines += [f"weight {weight} of key {key}" for key, weight in weights.items()]
    shown = {
        "limits": [limit.model_dump(mode="json") for limit in found],
        "closures": [closure.model_dump(mode="json") for closure in closures],
        "weights": weights,
    }
    show(shown, as_json, "\n".join(lines))


@limits.command(name="set")
async def set_limit(
    name: str,
    /,
    *,
    running: Annotated[int | None, Parameter(help="Most tasks at once; 0: none.")] = None,
    rate: Annotated[
        str | None, Parameter(help="N/SECONDS: most tasks that begin within so many seconds, as 500/60.")
    ] = None,
    cost: Annotated[
        str | None, Parameter(help="N/SECONDS: most units that are spent within so many seconds.")
    ] = None,
    type: Annotated[tuple[str, ...], Parameter(negative="", help="Of this type; unset: of every type.")] = (),
    by_key: Annotated[bool, Parameter(negative="", help="Each key has the amount for itself.")] = False,
    key: Annotated[
        tuple[str, ...],
        Parameter(negative="", help="KEY=N: an amount of its own for one key, with --by-key."),
    ] = (),
    burst: Annotated[int | None, Parameter(help="Most tasks of a rate that begin at one moment.")] = None,
    as_json: AsJson = False,
) -> None:
    """Set a limit, in place of one of this name. Lanes heed it within a second or two.

    What runs already goes on. `organism tasks why` names the limit that a task waits for.
    """
    limit = _limit(name, running, rate, cost, type, by_key, key, burst)
    async with open_queue() as queue:
        await queue.operator.set_limit(limit)
    show({"limit": limit.model_dump(mode="json")}, as_json, f"limit {name} is set: {_says(limit)}")


@limits.command(name="remove")
async def remove_limit(name: str, /, *, as_json: AsJson = False) -> None:
    """Remove a limit."""
    async with open_queue() as queue:
        if not await queue.operator.remove_limit(name):
            raise ConfigurationError(f"there is no limit {name}", "`organism limits` lists them")
    show({"removed": name}, as_json, f"limit {name} is removed")


@limits.command(name="close")
async def close(
    name: Limited = None,
    /,
    *,
    type: OfType = None,
    key: OfKey = "",
    until: Annotated[
        datetime | None, Parameter(help="When it opens, as 2030-01-01T12:00; UTC if it names no zone.")
    ] = None,
    seconds: Annotated[float | None, Parameter(help="Seconds until it opens, instead of --until.")] = None,
    reason: Annotated[str | None, Parameter(help="Shown in the answer why a task waits.")] = None,
    as_json: AsJson = False,
) -> None:
    """Close a limit, or a key of a type, until a moment: none of its tasks is claimed before.

    What runs goes on. A limit by key is closed for one key, with --key. An earlier closure is replaced.
    """
    from pydantic import ValidationError

    from organism_flows.blocks.queue import Closing

    if (until is None) == (seconds is None):
        raise ConfigurationError("it needs a moment at which it opens", "give one of --until and --seconds")
    async with open_queue() as queue:
        try:
            opens = until or await queue.reader.now() + timedelta(seconds=seconds or 0)
            what = Closing(**_closed_name(name, type, key), until=opens, reason=reason)
        except ValidationError as error:
            raise ConfigurationError(first_error(error), "see `organism limits close --help`") from None
        except OverflowError:
            raise ConfigurationError(
                f"--seconds {seconds} is too far ahead", "give a moment before 9999"
            ) from None
        closure = await queue.operator.close(what)
    show({"closure": closure.model_dump(mode="json")}, as_json, _closed(closure))


@limits.command(name="open")
async def open_again(
    name: Limited = None, /, *, type: OfType = None, key: OfKey = "", as_json: AsJson = False
) -> None:
    """Open a limit, or a key of a type, before its time."""
    from organism_flows.blocks.queue import ClosureName

    what = ClosureName.model_construct(**_closed_name(name, type, key))
    async with open_queue() as queue:
        if not await queue.operator.open(what):
            raise ConfigurationError(f"{_closed_text(what)} is not closed", "`organism limits` lists what is")
    show({"opened": what.model_dump()}, as_json, f"{_closed_text(what)} is open")


@limits.command(name="weight")
async def set_weight(key: str, weight: int, /, *, as_json: AsJson = False) -> None:
    """Set how many tasks a key gets when others get one, where they share a type and priority. 1 is usual."""
    from pydantic import TypeAdapter, ValidationError

    from organism_flows.blocks.queue.models.limits import Key, Weight

    try:
        TypeAdapter(dict[Key, Weight]).validate_python({key: weight})
    except ValidationError as error:
        raise ConfigurationError(
            first_error(error), "a weight is 1 to 1000, a key 1 to 125 letters"
        ) from None
    async with open_queue() as queue:
        await queue.operator.set_weight(key, weight)
    show({"key": key, "weight": weight}, as_json, f"key {key} has weight {weight}")


def _closed_name(limit: str | None, type: str | None, key: str) -> dict[str, Any]:
    if (limit is None) == (type is None):
        raise ConfigurationError("name either a limit or a type", "give NAME of a limit, or --type")
    return {"kind": "limit" if type is None else "type", "name": limit or type, "key": key}


def _closed_text(what: Closure | ClosureName) -> str:
    return f"{what.kind} {what.name}{f' for key {what.key}' if what.key else ''}"


def _limit(
    name: str,
    running: int | None,
    rate: str | None,
    cost: str | None,
    types: tuple[str, ...],
    by_key: bool,
    keys: tuple[str, ...],
    burst: int | None,
) -> Limit:
    from pydantic import ValidationError

    from organism_flows.blocks.queue import Limit

    given = {"running": running if running is None else str(running), "rate": rate, "cost": cost}
    said = {kind: text for kind, text in given.items() if text is not None}
    if len(said) != 1:
        raise ConfigurationError(
            "a limit is on what runs at once, on what begins, or on what is spent within a period",
            "give one of --running N, --rate N/SECONDS and --cost N/SECONDS",
        )
    [(kind, text)] = said.items()
    amount, _, period_s = text.partition("/")
    pairs = [each.rpartition("=") for each in keys]
    try:
        return Limit.model_validate(
            {
                "name": name,
                "kind": kind,
                "types": list(types),
                "by_key": by_key,
                "amount": int(amount),
                "period_s": float(period_s) if kind != "running" else None,
                "burst": burst,
                "exceptions": {own: int(most) for own, _, most in pairs},
            }
        )
    except ValidationError as error:
        raise ConfigurationError(first_error(error), "see `organism limits set --help`") from None
    except ValueError:
        wrong = f"--{kind} {text}" if kind != "running" else f"--key {' '.join(keys)}"
        raise ConfigurationError(f"{wrong} is no number", "as in --rate 500/60 or --key acme=5") from None


def _says(limit: Limit) -> str:
    within = {"running": "at once", "rate": f"in {limit.period_s} s", "cost": f"units in {limit.period_s} s"}
    amount = f"{limit.amount} {within[limit.kind]}"
    each = " for each key" if limit.by_key else ""
    return f"{amount}{each}, {'of ' + ', '.join(limit.types) if limit.types else 'of every type'}"


def _lines(limit: LimitUse) -> list[str]:
    declared = " (of the organism's file)" if limit.declared else ""
    lines = [f"{limit.name}: {_says(limit)}{declared}"]
    if limit.exceptions:
        lines.append("  " + ", ".join(f"{key} {most}" for key, most in limit.exceptions.items()))
    used: dict[str, float] = {**limit.running, **limit.left, **limit.spent}
    word = {"running": "run", "rate": "left", "cost": "spent"}[limit.kind]
    lines += [f"  {tasks:g} {word}{f' of key {key}' if key else ''}" for key, tasks in used.items()]
    return lines


def _closed(closure: Closure) -> str:
    because = f": {closure.reason}" if closure.reason else ""
    return f"closed: {_closed_text(closure)} until {closure.until:%Y-%m-%d %H:%M:%S %Z}{because}"
