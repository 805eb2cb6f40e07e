"""The RayCluster block: the address of Ray, and how a lane is placed on it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import Any, ClassVar, Self

from pydantic import Field, SecretStr

from organism_flows.blocks.errors import ConfigurationError

from organism_flows.blocks.prefect_blocks.block_base import NamedBlock  # isort: skip  # first: it points Prefect at the stack
from prefect.task_runners import TaskRunner
from prefect_ray import RayTaskRunner

from organism_flows.blocks.process_environment import join_stack
from organism_flows.blocks.settings import load_settings
from organism_flows.blocks.versions import ONE_IMAGE

REACH_TIMEOUT = 2.0
"""Longest wait for a TCP connection to the Ray head, in seconds. `ray.init` against a closed port was still
retrying after three minutes."""


OWN_NODE_TIMEOUT = 5.0
"""Longest wait for a Ray node on this machine, in seconds. Ray itself waits for a minute and does not name
the cause."""
CONNECT_TIMEOUT = 60.0
"""Longest wait for `ray.init`, in seconds. A wrong token takes Ray 20 s to report; a wrong host address it
never reports."""


class RayCluster(NamedBlock):
    """The Ray cluster that lanes and the organism run on.

    An empty field takes its value from the environment: RAY_ADDRESS, and Ray's own token settings. Without
    those it takes that of the embedded stack of this machine.

    Example:
        ```python
        from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster

        await (await RayCluster.named("default")).connect()
        ```
    """

    _block_type_name: ClassVar[str] = "Ray Cluster"
    _block_type_slug: ClassVar[str] = "ray-cluster"
    _description: ClassVar[str] = "A Ray cluster that runs lanes and the organism."

    address: str | None = Field(
        default=None,
        pattern=r"^[^/:]+:\d+$",
        description="host:port of the Ray head. Empty: RAY_ADDRESS, then the embedded one.",
    )
    token: SecretStr | None = Field(
        default=None, description="Ray's authentication token. Empty: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH."
    )
    lane_cpus: float = Field(
        default=0.1,
        title="CPUs a lane",
        ge=0,
        le=64,
        description="CPUs Ray sets aside for a lane. Lanes wait more than they work; a whole CPU each would "
        "leave none for the organism on a small machine.",
    )

    async def connect(self) -> None:
        """Connect this process to the cluster, unless it is connected already.

        Raises:
            ConfigurationError: There is no address, nothing listens there, the token is wrong, or no Ray node
                runs on this machine.
        """
        import ray

        if ray.is_initialized():
            return
        address = self._address()
        await _reach(address)
        os.environ.setdefault("RAY_AUTH_MODE", "token" if self.token else "disabled")
        if self.token:
            os.environ["RAY_AUTH_TOKEN"] = self.token.get_secret_value()
        _hush()
        await _find_own_node(address)
        try:
            await _init(address)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise _refused(address, error) from None

    def lane_options(self) -> dict[str, Any]:
        """Return the Ray options of a lane."""
        return {
            "num_cpus": self.lane_cpus,
            # Ray would restart a killed lane three times, silently and under the same Prefect task run.
            "max_retries": 0,
            "scheduling_strategy": "SPREAD",
        }

    def _address(self) -> str:
        if self.address:
            return self.address
        join_stack(load_settings().home)
        address = os.environ.get("RAY_ADDRESS", "")
        if not address:
            raise ConfigurationError(
                "no Ray cluster: RAY_ADDRESS is not set and no embedded stack is up",
                "run `organism up`, or set RAY_ADDRESS=host:port",
            )
        if address.startswith("ray://"):
            raise ConfigurationError(
                f"RAY_ADDRESS={address} is of Ray Client, which is not supported",
                "name the Ray head's host:port, and run a node that takes no work next to the flows: "
                "`ray start --address=host:port --num-cpus=0`",
            )
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or "/" in host:
            # The task runner silently drops "auto", and joins the cluster that was last started on this host.
            raise ConfigurationError(
                f"RAY_ADDRESS={address} is not host:port", "name the Ray head's host and GCS port"
            )
        return address


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


def last_line(error: BaseException) -> str:
    """Return the last line of an error of Ray: its text holds whole tracebacks."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


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


class LaneTaskRunner(RayTaskRunner[Any]):  # type: ignore[misc]  # prefect-ray ships no types
    """A `RayTaskRunner` that uses the connection which the flow has made itself, with `RayCluster.connect`.

    The base class connects while Prefect sets the flow run up. A failure there leaves the run ``Running`` for
    ever (Prefect 3.8.8). The base class also shuts Ray down at the end, even under a notebook that still uses
    it.
    """

    def __enter__(self) -> Self:
        TaskRunner.__enter__(self)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        TaskRunner.__exit__(self, *exc_info)
