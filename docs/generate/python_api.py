"""The public Python API, from the names in `organism_flows.__all__`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from prefect import Flow
from pydantic import BaseModel

import organism_flows
from docs.generate.rendering import docstring, fields


async def text(_: str) -> str:
    """Return each public name with its signature and its methods."""
    return "\n\n".join(part for name in organism_flows.__all__ for part in _described(name) if part)


def _described(name: str) -> Iterator[str]:
    thing = getattr(organism_flows, name)
    yield f"## {name}"
    if isinstance(thing, Flow):
        yield signature(f"async {name}", thing.fn)
        yield docstring(thing.fn.__doc__)
        return
    is_model = issubclass(thing, BaseModel)
    if not is_model and not issubclass(thing, Exception):
        yield signature(name, thing)
    yield docstring((thing.__doc__ or "").partition("Example:")[0])
    if is_model and not hasattr(thing, "get_block_type_slug"):
        yield fields(thing.model_json_schema())
    if is_model and hasattr(thing, "get_block_type_slug"):
        yield f"Its fields: [{thing.get_block_type_name()}](prefect-blocks.md)."
    for method, function in methods(thing):
        yield f"### {name}.{method}"
        kind = "async " if inspect.iscoroutinefunction(function) else ""
        yield signature(f"{kind}{method}", function)
        yield docstring(function.__doc__)


def methods(thing: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Return the public methods that this project defines, sorted by name."""
    for name in sorted(dir(thing)):
        function = inspect.getattr_static(thing, name)
        function = getattr(function, "__func__", function)
        ours = str(getattr(function, "__module__", "")).startswith("organism_flows.")
        if not name.startswith("_") and ours and inspect.isfunction(function):
            yield name, function


def signature(name: str, function: Callable[..., Any]) -> str:
    """Return a signature as a block of code, a parameter a line where it is long."""
    found = inspect.signature(function)
    shown, only_named = [], False
    for one in found.parameters.values():
        if one.name in ("self", "cls"):
            continue
        if one.kind is one.KEYWORD_ONLY and not only_named:
            only_named = True
            shown.append("*")
        shown.append(_parameter(one))
    returns = found.return_annotation
    tail = "" if returns in (found.empty, None, "None") else f" -> {_plain(returns)}"
    line = f"{name}({', '.join(shown)}){tail}"
    if len(line) > 90:
        inside = "".join(f"    {one},\n" for one in shown)
        line = f"{name}(\n{inside}){tail}"
    return f"```text\n{line}\n```"


def _parameter(one: inspect.Parameter) -> str:
    """Return a parameter with its type and default."""
    kinds: dict[Any, str] = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}
    stars = kinds.get(one.kind, "")
    annotation = "" if one.annotation is one.empty else f": {_plain(one.annotation)}"
    return f"{stars}{one.name}{annotation}" + ("" if one.default is one.empty else f" = {one.default!r}")


def _plain(annotation: Any) -> str:
    """Return an annotation as text, without what `Annotated` adds."""
    if isinstance(annotation, str):
        return re.sub(r"^Annotated\[(.+?), Field\(.*\)\]$", r"\1", annotation, flags=re.DOTALL)
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    return inspect.formatannotation(annotation)
