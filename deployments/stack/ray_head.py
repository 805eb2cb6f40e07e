"""The Ray head process of the embedded stack: ``ray start`` with two changes, and a hook for its workers.

Run as ``python -P -m`` with its module name and ``start --head ...``. Measured on 2 cores, without the Ray
Client server the head is ready 1 to 2 s earlier, and there is one process and one port less.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from organism_flows.blocks.gc_tuning import exempt_present_objects
from organism_flows.blocks.late_pyarrow import register_arrow_late

WORKER_HOOK_VARIABLE = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Variable that Ray sets for a ``worker_process_setup_hook``. On the head it is for all workers (2.60)."""
WORKER_HOOK = "organism_flows.deployments.stack.ray_head.set_up_worker"


def set_up_worker() -> None:
    """Prepare a process of Ray, before it imports what it is to run."""
    # Serve and a replica's code import in 0.1 s less.
    exempt_present_objects()
    register_arrow_late()
    _listen_on_loopback_only()


def _listen_on_loopback_only() -> None:
    """Make Serve replicas of this worker bind 127.0.0.1.

    ``ray/serve/_private/replica.py`` binds its gRPC server to ``[::]:0``, with no setting to change it
    (2.60). Everything else uses the node's address. It binds through a helper of Ray, which it imports after
    the worker's setup hook has run. If that changes, `organism status` reports the open socket.
    """
    tls_utils: Any = import_module("ray._common.tls_utils")
    bind = tls_utils.add_port_to_grpc_server

    def bind_loopback(server: object, address: str) -> Any:
        return bind(server, address.replace("[::]:", "127.0.0.1:"))

    tls_utils.add_port_to_grpc_server = bind_loopback


def main() -> None:
    """Run Ray's command line without the Ray Client server, which nothing here uses."""
    ray_command: Any = import_module("ray.scripts.scripts")
    # `ray start` has no option to leave the Client server out: it refuses port 0.
    ray_command.get_ray_client_dependency_error = lambda: "not wanted"
    ray_command.main()


if __name__ == "__main__":
    main()
