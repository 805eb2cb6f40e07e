"""Environments of the stack's processes: which variables they inherit, and which they must not."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from organism_flows.blocks.local_stack.stack_state import StackState, environment_of, read_secret
from organism_flows.blocks.settings import OLDER_NAMES, Settings
from organism_flows.deployments.stack.postgres.roles import PREFECT
from organism_flows.deployments.stack.postgres.server import EmbeddedPostgres
from organism_flows.deployments.stack.prefect_server import HOSTS
from organism_flows.deployments.stack.system.ports import LOOPBACK
from organism_flows.deployments.stack.system.processes import STACK_ID

# Each of these would point a process of the stack at another server, cluster or database.
# The stack's file has the two secrets of Prefect, if they are meant for this stack (`own_prefect_secret`).
FOREIGN = {
    "RAY_ADDRESS",
    "RAY_AUTH_TOKEN",
    "RAY_JOB_ID",
    "RAY_RAYLET_PID",
    "RAY_TMPDIR",
    "RAY_USE_TLS",
    "PREFECT_PROFILE",
    "PREFECT_API_KEY",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_API_DATABASE_CONNECTION_URL",
    "PREFECT_PROFILES_PATH",
}
FOREIGN_PREFIXES = ("PREFECT_SERVER_DATABASE_", "PREFECT_API_DATABASE_", "PREFECT__")
PREFECT_DATABASE_VARIABLE = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
NO_PROXY = "127.0.0.1,localhost"


def base_environment(settings: Settings, stack: StackState) -> dict[str, str]:
    """Return the environment of every process of ``stack``: ours with the addresses of the stack."""
    # libpq's own variables (PGSSLMODE, PGPASSFILE, ...) may belong to an external database. The embedded one
    # must not see them.
    prefixes = FOREIGN_PREFIXES if settings.dsn is not None else (*FOREIGN_PREFIXES, "PG")
    older_dsns = {older for older, name in OLDER_NAMES.items() if name == "ORGANISM_DSN"}
    dropped = FOREIGN | older_dsns | {"ORGANISM_DSN"}
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in dropped and not name.startswith(prefixes)
    }
    if settings.dsn is not None:
        environment["ORGANISM_DSN"] = settings.dsn.get_secret_value()
    for name in ("NO_PROXY", "no_proxy"):
        # The whole stack is on loopback, which a proxy cannot reach.
        environment[name] = ",".join(filter(None, [environment.get(name), NO_PROXY]))
    return {
        **environment,
        **environment_of(stack),
        STACK_ID: stack.stack_id,
        "ORGANISM_HOME": str(stack.home),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def postgres_environment(stack: StackState) -> dict[str, str]:
    """Return the environment of Postgres, which inherits only ``PATH``."""
    return {
        STACK_ID: stack.stack_id,
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LC_ALL": "C",
        "TZ": "UTC",
    }


def ray_environment(settings: Settings, stack: StackState, temporary: Path) -> dict[str, str]:
    """Return the environment of the Ray head, and so of every Ray worker, lane and replica.

    Args:
        settings: Settings in effect.
        stack: State of the stack.
        temporary: Their folder for temporary files.
    """
    from organism_flows.deployments.stack.ray_head import WORKER_HOOK, WORKER_HOOK_VARIABLE

    environment = base_environment(settings, stack)
    # The head joins no cluster. Its workers get the address from it.
    del environment["RAY_ADDRESS"]
    return {
        **environment,
        # Meant for macOS and Windows: 0 makes the node's address 127.0.0.1, which everything then binds.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        WORKER_HOOK_VARIABLE: WORKER_HOOK,
        # Processes that are killed leave temporary files behind. In this folder they are found and removed.
        "TMPDIR": str(temporary),
        # Draining is for clusters with other nodes that take over. Here it would only cost 30 s.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # 15 by default: next to Postgres and other programs, lanes and replicas would get too little CPU.
        "RAY_worker_niceness": "0",
        # 10 by default: seconds between two reports of the load to Serve, for organs that scale.
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        # Without this, a replica whose event loop is blocked is killed only after the
        # graceful_shutdown_timeout_s of its deployment, which grows with drain_s (2.60, deployment_state.py).
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # 0.1 by default: pause between two passes of Serve's controller, in seconds. It used 3.6 % of a core.
        # Replicas are checked every 2 s.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.2",
        # 100 by default: milliseconds between two looks of each replica and each router at its counters. They
        # took a fifth of an idle replica's processor time. Whoever scrapes metrics comes every few seconds.
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000",
        # By default these ports are fixed, and a second cluster on the machine would collide.
        "AUTOSCALER_METRIC_PORT": "0",
        "DASHBOARD_METRIC_PORT": "0",
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
    }


def prefect_environment(settings: Settings, stack: StackState, home: Path) -> dict[str, str]:
    """Return the environment of the Prefect server.

    Args:
        settings: Settings in effect.
        stack: State of the stack.
        home: Prefect's own folder.
    """
    return {
        **base_environment(settings, stack),
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_AUTH_STRING": read_secret(stack.prefect_secret_path),
        # Only the UI, under both names of loopback. By default any web page may call the API.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(ui_origins(stack)),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": prefect_database(stack),
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_CONNECT_ARGS_APPLICATION_NAME": "prefect-server",
        # Its share of the server's connections (`postgres.SERVER_OPTIONS`); Prefect's own defaults.
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_POOL_SIZE": "5",
        "PREFECT_SERVER_DATABASE_SQLALCHEMY_MAX_OVERFLOW": "10",
        # Each runs every 5 s by default, and hardly ever finds anything: runs that are late by 15 s, pauses
        # that are over, and alerts that wait for minutes.
        "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "15",
        "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "30",
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT15S",
        # The default copies the UI into site-packages, which may be read-only.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # In memory by default: a restart would lose who holds a concurrency slot, and some slots for ever.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        # Flow runs are kept for ever by default. In seconds.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(30 * 24 * 3600),
        "PREFECT_CLI_COLORS": "false",
    }


def prefect_database(stack: StackState) -> str:
    """Return the URL of the Prefect server's database: in the embedded Postgres, if there is one.

    With an external database for tasks, Prefect's own setting names it. Without that setting it is SQLite.
    """
    if stack.dsn:
        postgres = EmbeddedPostgres(stack.home, stack.stack_id)
        return postgres.dsn(PREFECT, PREFECT).replace("postgresql:", "postgresql+asyncpg:", 1)
    return os.environ.get(PREFECT_DATABASE_VARIABLE) or f"sqlite+aiosqlite:///{sqlite_file(stack.home)}"


def sqlite_file(home: Path) -> Path:
    """Return the path of the Prefect server's SQLite file, which need not exist."""
    return home / "prefect" / "prefect.db"


def ui_origins(stack: StackState) -> list[str]:
    """Return the origins at which the Prefect UI may be opened: the hosts of `prefect_server.HOSTS`."""
    port = urlsplit(stack.prefect_ui_url).port
    return [f"http://{host}:{port}" for host in HOSTS]


def gateway_environment(settings: Settings, stack: StackState) -> dict[str, str]:
    """Return the environment of the gateway. It listens on loopback, whatever our environment says."""
    return {
        **base_environment(settings, stack),
        "ORGANISM_GATEWAY_HOST": LOOPBACK,
        "ORGANISM_GATEWAY_PORT": str(urlsplit(stack.gateway_url).port),
        "ORGANISM_URL": settings.url or stack.organism_url,
    }


def worker_environment(settings: Settings, stack: StackState, temporary: Path) -> dict[str, str]:
    """Return the environment of the Prefect worker, and so of every flow run that it starts.

    Args:
        settings: Settings in effect.
        stack: State of the stack.
        temporary: Their folder for temporary files.
    """
    return {
        **base_environment(settings, stack),
        # Prefect 3.8.8's worker creates /tmp/runner_storage for the first user who starts one on a machine.
        # It ends with "Permission denied" for every other user.
        "TMPDIR": str(temporary),
        # 10 by default, which is how long a click on Run may take to have an effect. A poll costs the server
        # nine statements.
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        # Each client asks the server for its version first. Server and flow runs are of one installation.
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        # A flow run that ends early would lose its last lines.
        "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
        "PREFECT_CLI_COLORS": "false",
    }
