"""Findings: the results of checks, how a check is run, and how findings are summed up and shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Literal, TypeAlias

from pydantic import BaseModel

from organism_flows.blocks.errors import OrganismError
from organism_flows.flows.prefect_support.markdown import plain

Status: TypeAlias = Literal["ok", "degraded", "failed"]
EXIT_CODES: dict[Status, int] = {"ok": 0, "degraded": 1, "failed": 2}
ORDER: tuple[Status, ...] = ("failed", "degraded", "ok")


class Finding(BaseModel):
    """Result of one check."""

    check: str
    """Part and aspect, such as ``postgres: clock``."""
    status: Status
    evidence: str
    """What the check saw, on one line."""
    action: str = ""
    """What to do about it; empty if the status is ``ok``."""
    seconds: float = 0.0


class Verification(BaseModel):
    """All findings of a verification."""

    findings: list[Finding]

    @property
    def status(self) -> Status:
        """Return the worst status of the findings."""
        return next((s for s in ORDER if any(f.status == s for f in self.findings)), "ok")

    @property
    def exit_code(self) -> int:
        """Return 0 if all is ok, 1 if something is degraded, 2 if something has failed."""
        return EXIT_CODES[self.status]

    @property
    def troubles(self) -> list[Finding]:
        """Return the findings that are not ok, the worst first."""
        found = [f for f in self.findings if f.status != "ok"]
        return sorted(found, key=lambda f: ORDER.index(f.status))

    @property
    def line(self) -> str:
        """Return what is not ok, or that all is ok, on one line."""
        if not self.troubles:
            return f"all {len(self.findings)} checks are ok"
        return "; ".join(f"{f.check} {f.status}: {f.evidence}" for f in self.troubles)


Check: TypeAlias = Callable[[], Awaitable[list[Finding]]]


def ok(check: str, evidence: str) -> Finding:
    """Return a finding about a part that works."""
    return Finding(check=check, status="ok", evidence=evidence)


def degraded(check: str, evidence: str, action: str) -> Finding:
    """Return a finding about a part that works, but not as it should or not for long."""
    return Finding(check=check, status="degraded", evidence=evidence, action=action)


def failed(check: str, evidence: str, action: str) -> Finding:
    """Return a finding about a part that does not work."""
    return Finding(check=check, status="failed", evidence=evidence, action=action)


async def ask(name: str, check: Check, timeout_s: float) -> list[Finding]:
    """Run ``check`` and return its findings. If it raises or takes too long, return a failed finding."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(timeout_s):
            findings = await check()
    except OrganismError as error:
        findings = [failed(name, error.what, error.next_step)]
    except TimeoutError:
        findings = [failed(name, f"no answer within {timeout_s:g} s", f"see why {name} hangs")]
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        findings = [
            failed(name, f"{type(error).__name__}: {reason[:300]}", f"see why {name} does not answer")
        ]
    took = round(time.monotonic() - started, 3)
    return [finding.model_copy(update={"seconds": took}) for finding in findings]


def markdown(findings: Iterable[Finding]) -> str:
    """Return the actions as a list and the findings as a table in markdown, the worst first."""
    ordered = sorted(findings, key=lambda f: ORDER.index(f.status))
    # Actions are not a column: the UI does not wrap lines in tables, and a fourth column is out of sight.
    lines = [f"- {plain(f.check)}: {plain(f.action)}" for f in ordered if f.action]
    lines += ["", "| check | status | seen |", "|---|---|---|"]
    lines += [f"| {plain(f.check)} | {f.status} | {plain(f.evidence)} |" for f in ordered]
    return "\n".join(lines)
