"""The deployments of the project."""

from __future__ import annotations

OURS = {f"{flow}/organism" for flow in ("bootstrap", "dispatch", "redrive", "submit", "verify", "watchdog")}
