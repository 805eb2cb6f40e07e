"""Connects this process to a Ray cluster. Needs no Prefect, so it can be done before Prefect is imported."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.late_pyarrow import register_arrow_late
from organism_flows.blocks.settings import load_settings
from organism_flows.blocks.versions import ONE_IMAGE

if TYPE_CHECKING:
    from pydantic import SecretStr

REACH_TIMEOUT = 2.0
"""Longest wait for a TCP connection to the Ray head, in seconds. `ray.init` against a closed port was still
retrying after three minutes."""
OWN_NODE_TIMEOUT = 5.0
"""Longest wait for a Ray node on this machine, in seconds. Ray itself waits for a minute and does not name
the cause."""
DISCONNECT_S = 0.25
"""Longest wait for Ray's threads to end in a process that ends soon after, in seconds."""
CONNECT_TIMEOUT = 60.0
"""Longest wait for `ray.init`, in seconds. A wrong token takes Ray 20 s to report; a wrong host address it
never reports."""


async def connect(address: str, token: SecretStr | None = None) -> None:
    """Connect this process to the Ray cluster at ``address``. It must not be connected to one.

    Call `join_stack` before: Ray reads its settings when it is imported, which this does.

    Args:
        address: host:port of the Ray head.
        token: Ray's authentication token; `None`: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.

    Raises:
        ConfigurationError: Nothing listens there, the token is wrong, or no Ray node runs on this machine.
    """
    await _reach(address)
    os.environ.setdefault("RAY_AUTH_MODE", "token" if token else "disabled")
    if token:
        os.environ["RAY_AUTH_TOKEN"] = token.get_secret_value()
    _hush()
    register_arrow_late()
    await _find_own_node(address)
    try:
        await _init(address)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise _refused(address, error) from None


def disconnect() -> None:
    """Disconnect this process, which ends soon after, from Ray.

    At the end of a process Ray does this as well, after a sleep of half a second (2.60).
    """
    import ray

    # Serve's thread that listens to its controller may ask once more, and logs a traceback then (2.60,
    # ``long_poll.py``).
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    # Ray's node hears of it within some milliseconds. Then threads of this process end, which takes 0.2 to
    # 0.65 s (2.60).
    ending = threading.Thread(target=ray.shutdown, name="ray-disconnect", daemon=True)
    ending.start()
    ending.join(DISCONNECT_S)
    if ending.is_alive():
        atexit.unregister(ray.shutdown)


def _refused(address: str, error: Exception) -> ConfigurationError:
    text = str(error)
    if "Version mismatch" in text:
        both = " ".join(text.partition("Version mismatch: ")[2].split())
        return ConfigurationError(f"Ray at {address} is of another version: {both}", ONE_IMAGE)
    reason = text.splitlines()[0] if text else type(error).__name__
    return ConfigurationError(
        f"Ray at {address} does not let us in: {reason}",
        "check that RAY_AUTH_MODE and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH are the cluster's",
    )


def _hush() -> None:
    """Keep Ray's log lines about itself out of the user's terminal."""
    # Ray warns that it does not replace our SIGTERM handler, which is what we want.
    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
    # A filter, because Serve sets the level of its logger again when it is first used.
    logging.getLogger("ray.serve").addFilter(_is_a_warning)


def _is_a_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


async def _init(address: str) -> None:
    """Run `ray.init` without blocking the event loop.

    Raises:
        TimeoutError: It had not returned after `CONNECT_TIMEOUT`.
    """
    import ray

    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def connect() -> None:
        error: Exception | None = None
        try:
            namespace = load_settings().ray_namespace
            ray.init(address, namespace=namespace, log_to_driver=False, configure_logging=False)
        except Exception as raised:
            error = raised
        loop.call_soon_threadsafe(settle, error)

    # A daemon thread, because a call that never returns must not keep this process from ending.
    threading.Thread(target=connect, name="ray-connect", daemon=True).start()
    try:
        await asyncio.wait_for(done, CONNECT_TIMEOUT)
    except TimeoutError:
        raise TimeoutError(f"no answer within {CONNECT_TIMEOUT:g} s") from None


async def _reach(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(REACH_TIMEOUT):
            _, writer = await asyncio.open_connection(host, int(port))
        writer.close()
    except OSError as error:
        raise ConfigurationError(
            f"no Ray at {address}: {error or f'no answer within {REACH_TIMEOUT:g} s'}",
            "start it (`organism up`, or your own cluster), or correct RAY_ADDRESS",
        ) from None


async def _find_own_node(address: str) -> None:
    """Refuse early if no Ray node runs on this machine: a driver shares memory with one.

    Raises:
        ConfigurationError: No node was found within `OWN_NODE_TIMEOUT`.
    """
    from ray._private import services

    find: Any = getattr(services, "find_node_ids", None)  # `ray.init` calls it as well (2.60)
    deadline = time.monotonic() + OWN_NODE_TIMEOUT
    while find is not None and not await asyncio.to_thread(find):
        if time.monotonic() > deadline:
            raise ConfigurationError(
                f"no Ray node runs on this machine, and a flow needs one to reach the cluster at {address}",
                f"run one that takes no work: `ray start --address={address} --num-cpus=0`",
            )
        await asyncio.sleep(0.25)
