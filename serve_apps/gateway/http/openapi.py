"""The published OpenAPI description: FastAPI's, with the schema of problems and the tokens added."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from organism_flows.blocks.client.messages import Problem
from organism_flows.serve_apps.gateway.http.auth import OPEN_PATHS, SIGN_IN

DESCRIPTION = """Submit, watch and steer tasks. Errors are problem details (RFC 9457).

Where tokens are configured, a request needs `Authorization: Bearer TOKEN`: of scope `read` to look, `submit`
to add tasks as well, `operate` for everything. A browser signs in by `POST /api/session` and then needs no
header."""
BEARER = {"type": "http", "scheme": "bearer", "description": "Where tokens are configured."}
"""Security scheme of the tokens. FastAPI's own would check each request too, which `AuthMiddleware` does."""


def describe_problems(app: FastAPI) -> None:
    """Add the schema that the errors of every route refer to, and mark the routes that need a token."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
            parts = schema.pop("$defs")
            described = plain()
            described["components"]["schemas"] |= {"Problem": schema, **parts}
            described["components"]["securitySchemes"] = {"HTTPBearer": BEARER}
            for path, routes in described["paths"].items():
                for method, route in routes.items():
                    if path not in OPEN_PATHS and (method.upper(), path) != ("POST", SIGN_IN):
                        route["security"] = [{"HTTPBearer": []}]
        return plain()

    app.openapi = openapi  # type: ignore[method-assign]
