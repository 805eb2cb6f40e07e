"""``python -m organism_flows.serve_apps.gateway``: runs the gateway under uvicorn, by the settings."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from organism_flows.blocks.errors import ConfigurationError, OrganismError
from organism_flows.blocks.gc_tuning import collect_rarely
from organism_flows.blocks.local_stack.access_token import make_token
from organism_flows.blocks.settings import Settings, load_settings
from organism_flows.serve_apps.gateway.app import create_app
from organism_flows.serve_apps.gateway.http.connection_limits import BoundedProtocol
from organism_flows.serve_apps.gateway.http.tokens import check_binding

DEFAULT_PORT = 8080
NEIGHBOURS = 20
"""Number of ports tried, the default one included."""
OTHER_FILES = 200
"""Open files allowed in addition to the connections of clients."""
BACKLOG = 2048
STOP_TIMEOUT_S = 3
"""Longest time a stop waits for open requests, such as those that wait for a task, in seconds."""


def main() -> int:
    """Serve until interrupted, and return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = load_settings()
        listener = listen(settings)
        if not settings.gateway_open and settings.gateway_tokens is None:
            make_token(settings)
        app = create_app(settings)
    except OrganismError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    host, port = listener.getsockname()[:2]
    print(f"gateway: http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)
    server = uvicorn.Server(server_config(app, settings))
    allow_files(settings.gateway_connections + OTHER_FILES)
    collect_rarely()
    with listener:
        server.run(sockets=[listener])
    return 0


def server_config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    """Return the configuration of uvicorn for the gateway."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        limit_concurrency=settings.gateway_connections,
        # By default uvicorn trusts the proxy headers of every request that arrives over loopback.
        proxy_headers=settings.gateway_proxies is not None,
        forwarded_allow_ips=settings.gateway_proxies or "",
        # uvicorn logs one warning for each request that it cannot parse: any client could fill the disk.
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
    )


def allow_files(wanted: int) -> None:
    """Raise the limit of open files to ``wanted``, or as far as this user is allowed to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens where the settings say.

    Raises:
        ConfigurationError: The gateway would be open to other machines without tokens, or the address
            cannot be bound.
    """
    host, port = settings.gateway_host, settings.gateway_port
    check_binding(settings)
    ports = [port] if port else range(DEFAULT_PORT, DEFAULT_PORT + NEIGHBOURS)
    for candidate in ports:
        try:
            return bound(host, candidate)
        except OSError as error:
            if error.errno == errno.EADDRINUSE and candidate != ports[-1]:
                continue
            raise ConfigurationError(
                f"cannot listen on {host}:{candidate}: {error.strerror or error}",
                "set ORGANISM_GATEWAY_HOST and ORGANISM_GATEWAY_PORT to what is free here",
            ) from None
    raise AssertionError("there is at least one port")


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``; port 0 means any free port.

    Raises:
        OSError: The address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named: otherwise asyncio leaves Nagle's algorithm on, and each answer waits 40 ms for
    # the client's delayed acknowledgement. `socket.create_server` does not name it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        # Listen at once: two sockets that are bound but do not listen yet may have the same port.
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


if __name__ == "__main__":
    sys.exit(main())
