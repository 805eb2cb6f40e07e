"""Markdown from what the code says: tables, JSON schemas, docstrings."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from docstring_parser import DocstringStyle, parse

Schema = dict[str, Any]
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "minItems": "at least {}",
    "maxItems": "at most {}",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; the cells are Markdown on one line."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def code(text: object) -> str:
    """Return ``text`` in the type of code; nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def fields(schema: Schema) -> str:
    """Return a table of the fields of an object in JSON Schema."""
    required = schema.get("required", ())
    rows = [
        [code(name), kind(field), "required" if name in required else default(field), says(field)]
        for name, field in schema.get("properties", {}).items()
    ]
    return table(["field", "type", "default", "what it is"], rows)


def kind(schema: Schema) -> str:
    """Return the type of a value with its bounds, such as ``integer, ≥ 1, ≤ 5000``."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(code(json.dumps(value)) for value in schema["enum"])
    if "const" in schema:
        return code(json.dumps(schema["const"]))
    options = [one for one in schema.get("anyOf") or schema.get("oneOf") or () if one.get("type") != "null"]
    if options:
        return " or ".join(dict.fromkeys(kind(one) for one in options))
    if "allOf" in schema:
        return kind(schema["allOf"][0])
    name = schema.get("format") if schema.get("type") == "string" else None
    name = {"password": "secret", "date-time": "time", None: schema.get("type", "any")}.get(name, name)
    if name == "array":
        name = f"list of {kind(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        name = f"map of {kind(schema['additionalProperties'])}"
    bounds = [form.format(f"{schema[key]:,}") for key, form in BOUNDS.items() if key in schema]
    return ", ".join([name, *bounds])


def default(schema: Schema) -> str:
    """Return the default of a field."""
    value = schema.get("default")
    return "" if value in (None, "", [], {}) else code(json.dumps(value))


def says(schema: Schema) -> str:
    """Return the description of a field."""
    return " ".join(schema.get("description", "").split())


def prose(text: str | None) -> str:
    """Return a docstring's text as Markdown."""
    return re.sub(r"``([^`]+)``", r"`\1`", inspect.cleandoc(text or "")).strip()


def docstring(text: str | None) -> str:
    """Return a docstring with its arguments and errors as lists."""
    found = parse(text or "", DocstringStyle.GOOGLE)
    parts = [prose(found.short_description), prose(found.long_description)]
    if found.params:
        parts.append("\n".join(f"- `{one.arg_name}`: {_line(one.description)}" for one in found.params))
    if found.returns and found.returns.description:
        parts.append(f"Returns: {_line(found.returns.description)}")
    if found.raises:
        lines = [f"- `{one.type_name}`: {_line(one.description)}" for one in found.raises]
        parts.append("Raises:\n\n" + "\n".join(lines))
    return "\n\n".join(part for part in parts if part)


def _line(text: str | None) -> str:
    return " ".join(prose(text).split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
