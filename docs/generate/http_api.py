"""The HTTP API, from the gateway's OpenAPI description."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from docs.generate.rendering import Schema, code, default, fields, kind, prose, says, table
from organism_flows.blocks.settings import Settings
from organism_flows.serve_apps.gateway.app import create_app
from organism_flows.serve_apps.gateway.http.auth import scope_needed
from organism_flows.serve_apps.gateway.http.problems import TITLES


async def problems(_: str) -> str:
    """Return a table of the kinds of errors."""
    rows = [[str(status), code(f"urn:organism:{kind}"), title] for kind, (status, title) in TITLES.items()]
    return table(["status", "`type`", "title"], rows)


async def details(_: str) -> str:
    """Return each route with its parameters, and then each object."""
    parts = []
    for method, path, route in described():
        parts += [f"### {method} {path}", prose(route["description"])]
        parameters = [
            [code(p["name"]), p["in"], kind(p["schema"]), default(p["schema"]), says(p) or says(p["schema"])]
            for p in route.get("parameters", ())
        ]
        if parameters:
            parts.append(table(["parameter", "in", "type", "default", "what it is"], parameters))
        if body := _body(route):
            parts.append(f"Body: {kind(body)}.")
        parts.append(f"Scope: {scope(method, path, route) or 'none'}. Answers: {_answers(route)}.")
    parts.append("## Objects")
    for name, schema in sorted(document()["components"]["schemas"].items()):
        parts += [f"### {name}", prose(schema.get("description")), fields(schema)]
    return "\n\n".join(part for part in parts if part)


def document() -> dict[str, Any]:
    """Return the OpenAPI description of a gateway that is never started."""
    settings = Settings(
        home=Path(tempfile.gettempdir()), dsn=SecretStr("postgresql://nowhere"), token=SecretStr("t" * 16)
    )
    return create_app(settings).openapi()


def described() -> Iterator[tuple[str, str, Schema]]:
    """Return method, path and description of each route."""
    for path, methods in document()["paths"].items():
        for method, route in methods.items():
            yield method.upper(), path, route


def scope(method: str, path: str, route: Schema) -> str:
    """Return the scope that a token must have; nothing where none is needed."""
    return scope_needed(method, path) if "security" in route else ""


def _body(route: Schema) -> Schema:
    return next((c["schema"] for c in route.get("requestBody", {}).get("content", {}).values()), {})


def _answers(route: Schema) -> str:
    """Return the statuses; each success with what it holds."""
    said = []
    for status, answer in sorted(route["responses"].items()):
        holds = {
            f"{kind(content.get('schema', {}))} as `{media}`"
            if "$ref" in content.get("schema", {})
            else f"`{media}`"
            for media, content in answer.get("content", {}).items()
        }
        said.append(f"{status} ({', '.join(sorted(holds))})" if int(status) < 300 and holds else status)
    return ", ".join(said)
