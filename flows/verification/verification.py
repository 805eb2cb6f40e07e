"""The findings of a verification: how a check is run, and how findings are summed up and shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

from pydantic import BaseModel

from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.finding import WORST_FIRST, Finding, FindingStatus, failed
from organism_flows.flows.prefect_support.markdown import escaped


class Verification(BaseModel):
    """All findings of a verification."""

    findings: list[Finding]

    @property
    def status(self) -> FindingStatus:
        """Return the worst status of the findings."""
        return next((s for s in WORST_FIRST if any(f.status == s for f in self.findings)), "ok")

    @property
    def troubles(self) -> list[Finding]:
        """Return the findings that are not ok, the worst first."""
        return [f for f in _ordered(self.findings) if f.status != "ok"]

    @property
    def line(self) -> str:
        """Return what is not ok, or that all is ok, on one line."""
        if not self.troubles:
            return f"all {len(self.findings)} checks are ok"
        return "; ".join(f"{f.check} {f.status}: {f.evidence}" for f in self.troubles)


Check: TypeAlias = Callable[[], Awaitable[list[Finding]]]


async def run_check(name: str, check: Check, timeout_s: float) -> list[Finding]:
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
    ordered = _ordered(findings)
    # Actions are not a column: the UI does not wrap lines in tables, and a fourth column is out of sight.
    lines = [f"- {escaped(f.check)}: {escaped(f.action)}" for f in ordered if f.action]
    lines += ["", "| check | status | seen |", "|---|---|---|"]
    lines += [f"| {escaped(f.check)} | {f.status} | {escaped(f.evidence)} |" for f in ordered]
    return "\n".join(lines)


def _ordered(findings: Iterable[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda f: WORST_FIRST.index(f.status))
