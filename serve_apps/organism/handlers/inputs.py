"""Readers of a task's params, with errors that name the wrong one."""

from __future__ import annotations

from typing import Any

from organism_flows.serve_apps.organism.handler_api.errors import PermanentError


def params_of(task: dict[str, Any]) -> dict[str, Any]:
    """Return the task's params.

    Raises:
        PermanentError: The params are not a mapping.
    """
    params = task["params"]
    if not isinstance(params, dict):
        raise PermanentError(f"params is a {type(params).__name__}, not a mapping")
    return params


def text(task: dict[str, Any], name: str) -> str:
    """Return the parameter ``name``, which must be text and not empty.

    Raises:
        PermanentError: The parameter is missing, empty or not text.
    """
    params = params_of(task)
    if name not in params:
        raise PermanentError(f"params.{name} is missing: {task['type']} needs it, as text")
    value = params[name]
    if not isinstance(value, str) or not value:
        raise PermanentError(f"params.{name} is {value!r:.100}, not text")
    return value


def seconds(task: dict[str, Any], name: str, *, most: float) -> float:
    """Return the parameter ``name`` as seconds, from 0 to ``most``.

    Raises:
        PermanentError: The parameter is missing, no number, or out of range.
    """
    params = params_of(task)
    if name not in params:
        raise PermanentError(f"params.{name} is missing: {task['type']} needs it, in seconds")
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
        raise PermanentError(f"params.{name} is {value!r:.100}, not a number of seconds from 0 to {most:g}")
    return float(value)


def whole(task: dict[str, Any], name: str, *, most: int) -> int:
    """Return the parameter ``name`` as a whole number, from 1 to ``most``.

    Raises:
        PermanentError: The parameter is missing, no whole number, or out of range.
    """
    params = params_of(task)
    if name not in params:
        raise PermanentError(f"params.{name} is missing: {task['type']} needs it, as a whole number")
    value = params[name]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise PermanentError(f"params.{name} is {value!r:.100}, not a whole number from 1 to {most}")
    return value
