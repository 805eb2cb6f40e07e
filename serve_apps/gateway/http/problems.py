"""Errors as problem details (RFC 9457): one shape for every error."""

from __future__ import annotations

import math
from typing import Any

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match, Route

from organism_flows.blocks.client.messages import PROBLEM_TYPE, FieldError, Problem
from organism_flows.blocks.errors import (
    AlreadySubmitted,
    AmbiguousTask,
    ConfigurationError,
    EventRefused,
    OrganismError,
    QueueUnavailable,
    SchemaMismatch,
    TaskNotFound,
)
from organism_flows.blocks.queue.db.roles import PrivilegeMissing
from organism_flows.blocks.queue.db.sqlstates import DISK_FULL, TRANSIENT_ERRORS, verdict

RETRY_AFTER_S = 2
SHOWN_CHARACTERS = 100
"""Longest value shown in an error, in characters."""
ERRORS_SHOWN = 20

TITLES = {
    "bad-request": (400, "The request cannot be read"),
    "unauthenticated": (401, "A token is needed"),
    "forbidden": (403, "This may not be done"),
    "not-found": (404, "There is no such thing"),
    "method-not-allowed": (405, "This method is not for this route"),
    "ambiguous-id": (409, "More than one task has an id that begins so"),
    "already-submitted": (409, "The task is there already"),
    "conflict": (409, "The task is in no state for this"),
    "too-large": (413, "The body is too long"),
    "not-json": (415, "The body is not JSON"),
    "invalid": (422, "A value is not acceptable"),
    "too-many": (429, "There are too many requests"),
    "defect": (500, "The gateway has a defect"),
    "unavailable": (503, "The queue cannot be reached"),
    "busy": (503, "There is too much to do already"),
    "no-organism": (503, "The organism cannot be reached"),
    "deadline": (504, "It took too long"),
}
"""Status and title by kind."""
OPERATORS_STATES = ("0P", "28", "3D", "3F", "42501", "42P01", "42703", "42883", "F0", "XX")
"""Beginnings of the SQLSTATEs of a database that is not as the gateway needs it: login, rights, schema.
Other errors that do not pass with time are mistakes in the gateway's own statements."""
KIND_BY_STATUS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}


class RequestRefused(Exception):
    """Error that ends a request with a problem."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        next_step: str | None = None,
        errors: list[FieldError] | None = None,
        candidates: list[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        status, title = TITLES[kind]
        self.problem = Problem(
            type=f"urn:organism:{kind}",
            title=title,
            status=status,
            detail=_readable(detail),
            next_step=next_step or None,
            errors=errors or [],
            candidates=candidates or [],
        )
        self.headers = headers or {}
        if status == 503:
            self.headers["Retry-After"] = str(RETRY_AFTER_S)

    def response(self) -> Response:
        """Return the response for the client."""
        return Response(
            self.problem.model_dump_json(), self.problem.status, headers=self.headers, media_type=PROBLEM_TYPE
        )


def refusal(error: Exception) -> RequestRefused | None:
    """Return the problem that ``error`` is for a client; `None` means it is a defect of the gateway."""
    match error:
        case RequestRefused():
            return error
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            kind = KIND_BY_STATUS.get(error.status_code, "bad-request")
            return RequestRefused(kind, error.detail, headers=dict(error.headers or {}))
        case TaskNotFound():
            return RequestRefused("not-found", error.what, next_step="list tasks by GET /api/tasks")
        case AmbiguousTask():
            return RequestRefused(
                "ambiguous-id", error.what, next_step=error.next_step, candidates=list(error.candidates)
            )
        case AlreadySubmitted():
            return RequestRefused("already-submitted", error.what, next_step=error.next_step)
        case EventRefused():
            return RequestRefused("conflict", error.what, next_step=error.next_step)
        case PrivilegeMissing():
            return RequestRefused("unavailable", error.what, next_step=error.next_step)
        case QueueUnavailable() | SchemaMismatch():
            return RequestRefused("unavailable", error.what, next_step="try again later")
        case ConfigurationError():
            return RequestRefused("invalid", error.what, next_step=error.next_step)
        case TimeoutError():
            return RequestRefused(
                "unavailable", "the database took too long to answer", next_step="ask for less"
            )
        case _:
            return _of_postgres(error)


def _of_postgres(error: Exception) -> RequestRefused | None:
    state = getattr(error, "sqlstate", None) or ""
    text_of_error = _readable(str(getattr(error, "message", None) or error))
    match verdict(error):
        case "value" if not state.startswith("XX"):
            return RequestRefused("invalid", f"Postgres cannot take a value: {text_of_error}")
        case "passes":
            reason = f"{text_of_error} ({state})" if state else type(error).__name__
            text = f"Postgres does not take this now: {reason}"
            full = state == DISK_FULL
            step = "free some space on the disk of Postgres, and try again" if full else "try again later"
            return RequestRefused("unavailable", text, next_step=step)
        case _ if state.startswith(OPERATORS_STATES):
            return RequestRefused(
                "unavailable",
                f"Postgres refuses this: {text_of_error} ({state})",
                next_step="the operator of the gateway has to change the database or its login",
            )
        case _:
            return None


def _invalid(error: RequestValidationError) -> RequestRefused:
    raw = error.errors()
    errors = [
        FieldError(field=_place(each["loc"]), message=_message(each), value=_shown(each.get("input")))
        for each in raw[:ERRORS_SHOWN]
    ]
    if raw[0]["type"] == "json_invalid":
        return RequestRefused("bad-request", f"the body is not JSON: {raw[0]['ctx']['error']}", errors=errors)
    more = f" (and {len(raw) - 1} more)" if len(raw) > 1 else ""
    return RequestRefused("invalid", f"{errors[0].field}: {errors[0].message}{more}", errors=errors)


def _place(location: tuple[Any, ...]) -> str:
    # `one` and `many` name the two forms of a submission, not a part of what the client sent.
    if location[:1] == ("body",) and location[1:2] in (("one",), ("many",)):
        location = (location[0], *location[2:])
    return ".".join(_readable(str(part))[:SHOWN_CHARACTERS] for part in location)


def _message(error: dict[str, Any]) -> str:
    return _readable(str(error["msg"]).removeprefix("Value error, "))


def _shown(value: Any) -> Any:
    """Return ``value`` if it is short and simple, else a description of it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Python prints no number of more than 4,300 digits.
        return value if value.bit_length() <= 53 else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, str):
        value = _readable(value)
        return value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}…"
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    return f"of type {type(value).__name__}"


def _readable(text: str) -> str:
    """Return ``text`` with lone surrogates escaped: no answer can carry them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _allowed(request: Request) -> list[str]:
    """Return the methods of a path. Starlette names only those of the first route of the path."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    fitting = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    same = [route for route in fitting if route.path == fitting[0].path and route.include_in_schema]
    return sorted({method for route in same for method in route.methods or ()})


def install(app: FastAPI) -> None:
    """Make every expected error of ``app`` a problem. `AuthMiddleware` reports all others as defects."""

    async def answer(request: Request, error: Exception) -> Response:
        refused = refusal(error)
        if refused is None:
            raise error
        if refused.problem.status == 405:
            refused.headers["Allow"] = ", ".join(_allowed(request))
        return refused.response()

    kinds = (RequestRefused, RequestValidationError, HTTPException, OrganismError, asyncpg.PostgresError)
    for kind in (*kinds, *TRANSIENT_ERRORS):
        app.add_exception_handler(kind, answer)
