"""What keeps a task waiting, and how it stands in line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from organism_flows.blocks.queue.explain.why import Fact, Forecast, LineForecast, QueueSituation
from organism_flows.blocks.queue.models.limits import Closure, LimitRoom
from organism_flows.blocks.queue.models.operations import Pause
from organism_flows.blocks.queue.models.rows import TaskRow
from organism_flows.blocks.queue.wording import counted, oldest, shortened, time_text

AHEAD_LIMIT = 5_000
"""Most tasks in front of a task that are counted."""
WHOLE = 1 - 1e-6
"""Room for one task, as a sum of fractions has it."""


def in_the_way(
    task: TaskRow, situation: QueueSituation, pauses: Sequence[Pause], alive: int
) -> Iterator[Fact]:
    """Yield each reason that keeps a task from being claimed now."""
    if task.expires_at is not None and task.expires_at <= situation.now:
        text = f"expired at {time_text(task.expires_at)}, and a lane or the watchdog is about to end it"
        yield Fact("expired", text)
    for pause in pauses:
        because = f" ({pause.reason})" if pause.reason else ""
        yield Fact(
            "paused",
            f"waits because {pause.kind} {pause.name} is paused since {time_text(pause.paused_at)}{because}",
            f"resume it: `organism tasks resume --{pause.kind} {pause.name}`",
        )
    for closure in situation.closures:
        yield _closed(closure)
    for limit in situation.limits:
        if limit.room < limit.needs * WHOLE and limit.opens_s is None:
            yield _limited(limit, situation)
    if task.run_after > situation.now:
        last_end = task.history[-1] if task.history else None
        if last_end is not None and last_end.cause == "snoozed":
            because = shortened(last_end.error or "")
            text = f"was put off by its handler until {time_text(task.run_after)} ({because})"
            yield Fact("snoozed", text, until=task.run_after)
        elif task.status == "retry" and task.error:
            last = f"attempt {task.attempts} of {task.max_attempts} failed ({shortened(task.error)})"
            text = f"backs off: {last}, the next one is at {time_text(task.run_after)}"
            yield Fact("backing_off", text, until=task.run_after)
        else:
            text = f"is scheduled: not before {time_text(task.run_after)}"
            yield Fact("scheduled", text, until=task.run_after)
    if situation.served is not None and task.type not in situation.served:
        text = f"is of a type the organism has no organ for: {task.type}"
        yield Fact("no_organ", text, "add an organ for it to the configuration, or cancel the task")
    if not alive:
        leaving = sum(lane.live for lane in situation.lanes)
        text = "waits for a lane: none is alive that claims tasks"
        if leaving:
            text += f" ({counted(leaving, 'lane is', 'lanes are')} leaving)"
        yield Fact("no_lane", text, "start one: `organism dispatch`")


def _closed(closure: Closure) -> Fact:
    of_key = f"key {closure.key}" if closure.key else ""
    if closure.kind == "limit":
        what = f"limit {closure.name}" + (f" for {of_key}" if of_key else "")
    else:
        what = f"{of_key} of type {closure.name}" if of_key else f"type {closure.name} without a key"
    because = f" ({shortened(closure.reason)})" if closure.reason else ""
    return Fact(
        "closed",
        f"waits because {what} is closed until {time_text(closure.until)}{because}",
        until=closure.until,
    )


def _limited(limit: LimitRoom, situation: QueueSituation) -> Fact:
    now = situation.now
    of_key = f" for key {limit.key}" if limit.key else ""
    if limit.amount == 0:
        return Fact(
            "limited",
            f"waits because limit {limit.name} allows none{of_key}",
            f"raise it: `organism limits set {limit.name}`",
        )
    if limit.kind == "running":
        text = f"waits because limit {limit.name} allows {limit.amount} at once{of_key}, and as many run"
        seconds = situation.rooms.get(limit.name)
        if seconds is None:
            return Fact("limited", text)
        when = Forecast(**_range(now, *seconds))
        return Fact("limited", f"{text}: one is likely to end {_between(when)}", room=when)
    until = now + timedelta(seconds=limit.next_s) if limit.next_s is not None else None
    if limit.kind == "cost":
        text = f"waits because limit {limit.name} has {limit.room:g} of {limit.amount} left{of_key}, "
        text += f"and its cost is {limit.needs:g}"
        return Fact("limited", text + (f": more is left at {time_text(until)}" if until else ""), until=until)
    text = f"waits because the rate of limit {limit.name}{of_key} is used up: "
    text += f"another begins at {time_text(until)}"
    return Fact("limited", text, until=until)


def in_line(situation: QueueSituation, alive: int) -> Fact:
    """Return how a task that nothing is in the way of stands in line."""
    ahead = situation.ahead or 0
    before = (
        "it is the first" if not ahead else f"{ahead}{'+' if ahead >= AHEAD_LIMIT else ''} come before it"
    )
    lanes = "1 lane claims" if alive == 1 else f"{alive} lanes claim"
    text = f"is due and in line: {before} of its type, priority, domain and key, and {lanes} tasks"
    others = situation.of_type
    if others and others.held:
        text += f"; {counted(others.held, 'other of its type runs', 'others of its type run')} now, "
        text += f"{oldest(others.held)}since {time_text(others.held_since)}"
    return Fact("in_line", text)


def line_forecast(facts: Sequence[Fact], situation: QueueSituation) -> LineForecast | None:
    """Return when a task will begin that waits for these reasons."""
    wait = situation.begins
    if wait is None or any(fact.reason not in ("in_line", "limited") for fact in facts):
        return None
    return LineForecast(
        **_range(situation.now, wait.earliest_s, wait.latest_s),
        per_minute=wait.per_s * 60,
        window_s=wait.window_s,
    )


def forecast_text(forecast: LineForecast) -> str:
    """Return when a task will begin, and by which rate that is reckoned."""
    rate = f"{forecast.per_minute:,.{0 if forecast.per_minute >= 10 else 1}f} a minute"
    window = counted(round(forecast.window_s), "second", "seconds")
    verb = "is not likely to begin before" if forecast.latest is None else "is likely to begin"
    return f"it {verb} {_between(forecast)}, at the {rate} of the last {window}"


def _range(now: datetime, earliest_s: float, latest_s: float | None) -> dict[str, datetime | None]:
    return {
        "earliest": _after(now, earliest_s),
        "latest": None if latest_s is None else _after(now, latest_s),
    }


def _after(now: datetime, seconds: float) -> datetime:
    try:
        return now + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=now.tzinfo)


def _between(forecast: Forecast) -> str:
    if forecast.latest is None:
        return time_text(forecast.earliest)
    if forecast.latest.replace(microsecond=0) == forecast.earliest.replace(microsecond=0):
        return f"at {time_text(forecast.latest)}"
    return f"between {time_text(forecast.earliest)} and {time_text(forecast.latest)}"
