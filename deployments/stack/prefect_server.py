"""The Prefect server of the embedded stack: Prefect's own application, for loopback names only.

Run as ``python -P -m`` with its module name and a port. It does what ``prefect server start`` does, with two
changes for which Prefect 3.8.8 has no setting:

- It refuses requests for any host but the loopback names of this machine. So a web page whose host name was
  pointed to 127.0.0.1 (DNS rebinding) gets 400.
- Its own upkeep (late runs, schedules, leases) looks once a second what is due, not four times.
"""

from __future__ import annotations

import socket
import sys
from datetime import timedelta
from functools import cache, partial

from organism_flows.blocks.gc_tuning import importing
from organism_flows.deployments.stack.system.ports import LOOPBACK

HOSTS = [LOOPBACK, "localhost"]
UPKEEP_POLL = timedelta(seconds=1)
"""Time between two looks of the server's upkeep. The services themselves run every 5 s and more."""


def main(port: int) -> None:
    """Serve Prefect on loopback until a signal ends it."""
    # Take the port first: uvicorn takes it only after Prefect has migrated its database, up to half a minute
    # later, and by then another stack may have it. Clients that connect before that wait.
    listener = socket.create_server((LOOPBACK, port), backlog=2048)
    with importing():
        import docket
        import uvicorn
        from prefect.server.api import background_workers
        from prefect.server.api.server import create_app
        from prefect.settings import get_current_settings
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        server = get_current_settings().server
        prefect = create_app(final=True)
    vars(background_workers)["Worker"] = partial(
        docket.Worker, minimum_check_interval=UPKEEP_POLL, scheduling_resolution=UPKEEP_POLL
    )
    # The description is served without the secret. It takes seconds to build, which block all other requests.
    prefect.openapi = cache(prefect.openapi)  # type: ignore[method-assign]
    # Around the application, not within it: Prefect's own services call it under another host name.
    app = TrustedHostMiddleware(prefect, allowed_hosts=HOSTS, www_redirect=False)
    config = uvicorn.Config(
        app,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=server.logging_level.lower(),
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(int(sys.argv[1]))
