"""Loading of the handler that an organ's configuration names."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.serve_apps.organism.config import OrganConfig
from organism_flows.serve_apps.organism.handler_api.context import Context
from organism_flows.serve_apps.organism.handler_api.errors import describe, harmless
from organism_flows.serve_apps.organism.handler_api.handler import Handler


def extend_import_path(folders: list[Path]) -> None:
    """Make the modules in ``folders`` importable. The folders come last, so that they shadow nothing."""
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.append(folder)
    importlib.invalidate_caches()


class InvalidParams(Exception):
    """Error: the params are not of the type that the handler declares. The message names the fields."""

    permanent = True


def load_handler(organ: OrganConfig) -> Handler:
    """Import the handler of ``organ``, instantiate it if it is a class, and return it.

    This runs the handler's module, which may take long. Do not call it on an event loop.

    Raises:
        ConfigurationError: The handler does not import, does not exist, or cannot be called with one task.
    """
    module_name, _, attributes = organ.handler.partition(":")
    found: Any = _attempt(organ, lambda: importlib.import_module(module_name))
    for name in attributes.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            near = difflib.get_close_matches(name, dir(found), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise refusal(organ, f"{module_name} has no {name}{hint}") from None
    if inspect.isclass(found):
        found = _attempt(organ, found)
    if not callable(found):
        raise refusal(organ, f"a {type(found).__name__} cannot be called")
    return _fit(organ, found)


def _fit(organ: OrganConfig, found: Callable[..., Any]) -> Handler:
    """Return a handler that passes ``found`` the arguments that it declares.

    Parameters called ``params`` and ``context`` get just that, and with batches the one called ``contexts``.
    The first one with another name gets the task, or the batch.
    """
    if _is(found, inspect.isgeneratorfunction) or _is(found, inspect.isasyncgenfunction):
        raise refusal(organ, "a generator yields results one by one: return one value, for instance a list")
    is_async = _is(found, inspect.iscoroutinefunction)
    try:
        signature = inspect.signature(found)
    except ValueError:  # a builtin that does not show its signature
        return Handler(found, is_async, batch=organ.batch)
    names = {
        name
        for name in (*(("contexts",) if organ.batch else ()), "params", "context")
        if (parameter := signature.parameters.get(name)) and parameter.kind in _BY_NAME
    }
    if organ.batch and (wrong := sorted(names - {"contexts"})):
        raise refusal(
            organ, f"a batch handler gets a list of tasks and their `contexts`, and no {' or '.join(wrong)}"
        )
    first = next((p for name, p in signature.parameters.items() if name not in names), None)
    # By name where that is possible, because it may come after the others.
    task_name = first.name if names and first and first.kind in _BY_NAME else None
    positional = (object(),) if task_name is None and (first or not names) else ()
    try:
        signature.bind(*positional, **dict.fromkeys(names | ({task_name} if task_name else set())))
    except TypeError as error:
        raise refusal(organ, f"cannot be called with one task: {error}") from None
    if not names:
        return Handler(found, is_async, batch=organ.batch)
    validate = _validator(organ, found) if "params" in names else None

    context_name = next(iter(names - {"params"}), None)

    def call(task: Any, context: Context | list[Context] | None = None) -> Any:
        given: dict[str, Any] = {task_name: task} if task_name else {}
        if context_name is not None:
            given[context_name] = context
        if validate is not None:
            given["params"] = validate(task["params"])
        return found(task, **given) if positional else found(**given)

    return Handler(call, is_async, wants_context=context_name is not None, batch=organ.batch)


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _validator(organ: OrganConfig, found: Callable[..., Any]) -> Callable[[Any], Any]:
    """Return a function that validates params against the annotation of the parameter ``params``.

    The annotation may be any type that pydantic can validate.
    """
    function = found if inspect.isroutine(found) else type(found).__call__
    hints = _attempt(organ, lambda: get_type_hints(function, include_extras=True))
    adapter: TypeAdapter[Any] = _attempt(organ, lambda: TypeAdapter(hints.get("params", Any)))

    def validate(params: Any) -> Any:
        try:
            return adapter.validate_python(params)
        except ValidationError as error:
            problems = [
                f"{'.'.join(map(str, ('params', *problem['loc'])))}: {problem['msg']}, "
                f"got {problem['input']!r:.100}"
                for problem in error.errors(include_url=False, include_context=False)
            ]
            more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise InvalidParams("; ".join(problems[:5]) + more) from None

    return validate


def _is(found: Any, kind: Callable[[Any], bool]) -> bool:
    """Return True if ``found``, or what is called when it is an object, is a function of this kind."""
    return kind(found) or kind(getattr(found, "__call__", None))  # noqa: B004


def _attempt(organ: OrganConfig, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except BaseException as error:  # a module may call sys.exit() on import
        raise refusal(organ, describe(error)) from None


def refusal(organ: OrganConfig, why: str) -> ConfigurationError:
    """Return the error that says why the handler of ``organ`` cannot be used."""
    return ConfigurationError(
        f"organ {organ.id!r}: handler {organ.handler!r} cannot be used: {harmless(why, 500)}",
        "correct the path, or make the module importable on the replicas",
    )
