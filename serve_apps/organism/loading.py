"""Turns the handler path of an organ's configuration into something that can be called."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.errors import ConfigurationError
from serve_apps.organism.config import OrganConfig
from serve_apps.organism.errors import describe, harmless


def extend_import_path(folders: list[Path]) -> None:
    """Make the modules in ``folders`` importable; behind everything else, so that they shadow nothing."""
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler ready to be called with a task, or a list of tasks when its organ says ``batch``."""

    call: Callable[[Any], Any]
    is_async: bool


def load_handler(organ: OrganConfig) -> Handler:
    """Import, and where it is a class instantiate, the handler of ``organ``.

    Runs whatever the handler's module runs on import, so it may take long: not on an event loop.

    Raises:
        ConfigurationError: It does not import, does not exist, or cannot be called with one task.
    """
    module_name, _, attributes = organ.handler.partition(":")
    found: Any = _attempt(organ, lambda: importlib.import_module(module_name))
    for name in attributes.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            near = difflib.get_close_matches(name, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise _refusal(organ, f"{module_name} has no {name}{hint}") from None
    if inspect.isclass(found):
        found = _attempt(organ, found)
    if not callable(found):
        raise _refusal(organ, f"a {type(found).__name__} cannot be called")
    try:
        inspect.signature(found).bind(object())
    except TypeError as error:
        raise _refusal(organ, f"cannot be called with one task: {error}") from None
    except ValueError:
        pass  # a builtin that does not tell its signature
    return Handler(call=found, is_async=_is_async(found))


def _is_async(found: Any) -> bool:
    return inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(getattr(found, "__call__", None))  # noqa: B004


def _attempt(organ: OrganConfig, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except BaseException as error:  # a module may call sys.exit() on import
        raise _refusal(organ, describe(error)) from None


def _refusal(organ: OrganConfig, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"organ {organ.id!r}: handler {organ.handler!r} cannot be used: {harmless(why, 500)}",
        "correct the path, or make the module importable on the replicas",
    )
