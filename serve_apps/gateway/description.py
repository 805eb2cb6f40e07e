"""The published OpenAPI description: FastAPI's, and the schema of problems, which no route returns."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer

from blocks.gateway_api import Problem

DESCRIPTION = """Submit, watch and steer tasks. Errors are problem details (RFC 9457).

Where tokens are configured, a request needs `Authorization: Bearer TOKEN`: of scope `read` to look, `submit`
to add tasks as well, `operate` for everything."""
BEARER = Security(HTTPBearer(auto_error=False, description="Where tokens are configured."))
"""Only described: `Guard` is who asks for it."""


def describe_problems(app: FastAPI) -> None:
    """Add what the errors of every route refer to."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            parts = schema.pop("$defs")
            described = plain()
            described["components"]["schemas"] |= {"Problem": schema, **parts}
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]
