"""Every route of the gateway."""

from __future__ import annotations

TASK = "/api/tasks/{task_id}"

OPEN = {("get", "/healthz"), ("get", "/readyz"), ("post", "/api/session")}

ROUTES = {
    *(
        ("post", path)
        for path in (
            "/api/tasks",
            "/api/tasks/cancel",
            "/api/tasks/redrive",
            "/api/tasks/retry",
            "/api/tasks/wait",
            "/api/pauses",
            "/api/pauses/resume",
            "/api/limits",
            "/api/limits/remove",
            "/api/limits/close",
            "/api/limits/open",
            "/api/limits/weights",
            "/api/session",
            "/api/session/sign-out",
            "/api/session/codes",
            "/api/types/policy",
        )
    ),
    *(
        ("get", path)
        for path in (
            "/api/tasks",
            "/api/tasks/export",
            "/api/pauses",
            "/api/limits",
            "/api/session",
            "/api/overview",
            "/api/failures",
            "/api/types",
            "/api/audit",
            "/healthz",
            "/readyz",
            "/metrics",
        )
    ),
    ("get", "/coordinator/health"),
    ("post", "/coordinator/submit"),
    *(("get", f"{TASK}{path}") for path in ("", "/status", "/why", "/wait", "/events", "/stream")),
    *(
        ("post", f"{TASK}{path}")
        for path in ("/cancel", "/run", "/retry", "/events/{event}", "/links/{event}")
    ),
}
