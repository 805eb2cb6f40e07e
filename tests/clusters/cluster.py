"""A cluster as a user would have it: Postgres, Prefect, two Ray nodes, and a machine that flows run on."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.clusters.machines import Machine, Network, network

POSTGRES = Path("/usr/lib/postgresql/15/bin")
"""Of the distribution: Prefect needs pg_trgm, which the embedded one lacks."""
GCS, DASHBOARD, API = 6379, 8265, 4200
START_S = 400.0


class Cluster:
    """Everything, and the commands a user gives on the machine of the flows."""

    def __init__(self, net: Network, folder: Path) -> None:
        self.net, self.folder = net, folder
        self.services = net.add("services", 1)
        self.head = net.add("head", 2)
        self.node = net.add("node", 3)
        self.flows = net.add("flows", 4)
        self.password = secrets.token_hex(8)
        self.token = folder / "token"
        self.token.write_text(secrets.token_hex(32))
        self.token.chmod(0o600)

    def dsn(self, database: str, scheme: str = "postgresql") -> str:
        return f"{scheme}://organism:{self.password}@{self.services.address}:5432/{database}"

    @property
    def ray_env(self) -> dict[str, str]:
        """What a process needs to be let into the Ray cluster."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}

    @property
    def env(self) -> dict[str, str]:
        """What docs/how-to/clusters.md tells to set where flows run."""
        return {
            **self.ray_env,
            "ORGANISM_DSN": self.dsn("organism"),
            "ORGANISM_LEASE_SECONDS": "6",
            "PREFECT_API_URL": f"http://{self.services.address}:{API}/api",
            "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.2",
            "RAY_ADDRESS": f"{self.head.address}:{GCS}",
            "RAY_DASHBOARD_URL": f"http://{self.head.address}:{DASHBOARD}",
        }

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start_postgres(self) -> None:
        data, password = self.folder / "pg", self.folder / "password"
        data.mkdir()
        password.write_text(self.password)
        for path in (data, password):
            shutil.chown(path, "nobody")
        nobody = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        initdb = [*nobody, str(POSTGRES / "initdb"), "-D", str(data), "-U", "organism"]
        initdb += ["-A", "scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C", "--no-sync"]
        code, out, err = self.services.run(*initdb)
        assert code == 0, out + err
        with (data / "pg_hba.conf").open("a") as file:
            file.write(f"host all organism {self.net.prefix}.0/24 scram-sha-256\n")
        server = [*nobody, str(POSTGRES / "postgres"), "-D", str(data), "-c", "max_connections=200"]
        server += ["-c", f"listen_addresses={self.services.address}", "-c", f"unix_socket_directories={data}"]
        self.services.start(*server, log=self.log("postgres"))
        reachable(self.services.address, 5432)
        for database in ("organism", "prefect"):
            self.until_ok(self.services, "psql", self.dsn("postgres"), "-c", f"CREATE DATABASE {database}")

    def start_prefect(self) -> None:
        self.services.start(
            *(sys.executable, "-m", "prefect", "server", "start"),
            *("--host", self.services.address, "--port", str(API)),
            log=self.log("prefect"),
            env={
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": self.dsn("prefect", "postgresql+asyncpg"),
                "PREFECT_HOME": str(self.folder / "prefect"),
                "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(self.folder / "ui"),
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            },
        )

    def start_ray(self, machine: Machine, *options: str, **env: str) -> None:
        """Start a Ray node as its documentation says."""
        where = ["--head", "--port", str(GCS), "--dashboard-host", machine.address]
        where += ["--dashboard-port", str(DASHBOARD), "--ray-client-server-port", "10001"]
        if machine is not self.head:
            where = ["--address", f"{self.head.address}:{GCS}"]
        machine.start(
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
            *("--node-ip-address", machine.address, "--object-store-memory", "100000000"),
            *where,
            *options,
            log=self.log(f"ray-{machine.name}"),
            env={**self.ray_env, **env},
        )

    def start_worker(self, **env: str) -> None:
        """Start a Prefect worker on the machine of the flows."""
        self.flows.start(
            *(sys.executable, "-m", "prefect", "worker", "start", "--pool", "organism", "--type", "process"),
            log=self.log("worker"),
            env={**self.env, "PREFECT_WORKER_QUERY_SECONDS": "1", **env},
        )

    def organism(self, *arguments: str, code: int | None = 0, **env: str) -> Any:
        """Give an `organism` command on the machine of the flows; what it prints as JSON."""
        command = [sys.executable, "-m", "organism_flows.deployments.cli.main", *arguments, "--json"]
        got, out, err = self.flows.run(*command, patience=600, env={**self.env, **env})
        assert code is None or got == code, f"{arguments}: code {got}\n{out[-3000:]}\n{err[-3000:]}"
        return json.loads(out) if out.strip() else {"error": err}

    def until_ok(self, machine: Machine, *command: str, **env: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            code, out, err = machine.run(*command, env=env)
            if code == 0:
                return
            assert time.monotonic() < deadline, f"{command}: {out}\n{err}"
            time.sleep(0.2)


def reachable(host: str, port: int) -> None:
    """Wait until somebody listens there."""
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """All of it, started and reachable."""
    # Not below /tmp, of which every machine has its own.
    folder = Path(tempfile.mkdtemp(prefix="organism-cluster-", dir="/var/tmp"))
    folder.chmod(0o711)
    try:
        with network() as net:
            made = Cluster(net, folder)
            # One after the other: a Ray node whose helpers take too long to start ends for good.
            made.start_postgres()
            made.start_prefect()
            reachable(made.services.address, API)
            made.start_ray(made.head, "--num-cpus", "3")
            reachable(made.head.address, GCS)
            reachable(made.head.address, DASHBOARD)
            made.start_ray(made.node, "--num-cpus", "3")
            # The driver's own node, which takes no work: a Ray driver needs one on its machine.
            made.start_ray(made.flows, "--num-cpus", "0")
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)
