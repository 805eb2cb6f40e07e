"""``python -m serve_apps.gateway``: the gateway under uvicorn, as the settings have it."""

from __future__ import annotations

import errno
import logging
import socket
import sys

import uvicorn

from blocks.errors import ConfigurationError, OrganismError
from blocks.garbage import collect_rarely
from blocks.settings import Settings, load_settings
from serve_apps.gateway.app import create_app
from serve_apps.gateway.tokens import check_binding

DEFAULT_PORT = 8080
NEIGHBOURS = 20
"""Ports tried after the default one."""
STOP_TIMEOUT_S = 3
"""How long requests that wait for a task may delay a stop."""


def main() -> int:
    """Serve until interrupted; the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        settings = load_settings()
        listener = listen(settings)
        app = create_app(settings)
    except OrganismError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    host, port = listener.getsockname()[:2]
    print(f"gateway: http://{f'[{host}]' if ':' in host else host}:{port}", file=sys.stderr, flush=True)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=STOP_TIMEOUT_S,
        )
    )
    collect_rarely()
    with listener:
        server.run(sockets=[listener])
    return 0


def listen(settings: Settings) -> socket.socket:
    """A socket bound where the settings say.

    Raises:
        ConfigurationError: It would be open to others without tokens, or cannot be bound.
    """
    host, port = settings.gateway_host, settings.gateway_port
    check_binding(host, tokens=settings.gateway_tokens is not None)
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
    """A socket bound to ``host`` and ``port``; 0: any.

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
    except BaseException:
        listener.close()
        raise
    return listener


if __name__ == "__main__":
    sys.exit(main())
