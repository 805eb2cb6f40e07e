"""``python -m organism_flows.serve_apps.gateway``: the gateway under uvicorn, as the settings have it."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import sys

import uvicorn
from starlette.types import ASGIApp

from organism_flows.blocks.access_token import make_token
from organism_flows.blocks.errors import ConfigurationError, OrganismError
from organism_flows.blocks.gc_tuning import collect_rarely
from organism_flows.blocks.settings import Settings, load_settings
from organism_flows.serve_apps.gateway.app import create_app
from organism_flows.serve_apps.gateway.http.connection_limits import BoundedProtocol
from organism_flows.serve_apps.gateway.http.tokens import check_binding

DEFAULT_PORT = 8080
NEIGHBOURS = 20
"""Ports tried after the default one."""
OTHER_FILES = 200
"""Open files besides the connections of clients."""
BACKLOG = 2048
STOP_TIMEOUT_S = 3
"""How long requests that wait for a task may delay a stop."""


def main() -> int:
    """Serve until interrupted; the exit code."""
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
    """How uvicorn serves the gateway."""
    return uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        limit_concurrency=settings.gateway_connections,
        # By default uvicorn believes whatever arrives over loopback.
        proxy_headers=settings.gateway_proxies is not None,
        forwarded_allow_ips=settings.gateway_proxies or "",
        # Warnings are one for each request that cannot be read: anybody could fill the disk.
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
    )


def allow_files(wanted: int) -> None:
    """Raise the limit of open files towards ``wanted``, as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def listen(settings: Settings) -> socket.socket:
    """A socket bound where the settings say.

    Raises:
        ConfigurationError: It would be open to others without tokens, or cannot be bound.
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
    """A socket that listens on ``host`` and ``port``; 0: any.

    Raises:
        OSError: It cannot be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP: else asyncio leaves Nagle's algorithm on, and each answer waits 40 ms for the client's
    # delayed acknowledgement. `socket.create_server` does not name it.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), port))
        # Not later: two that are bound and do not listen yet may have one port.
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


if __name__ == "__main__":
    sys.exit(main())
