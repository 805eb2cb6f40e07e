"""What a stack is added to: a Prefect server, a Ray head and Serve with one replica, all with their defaults.

It starts them in a folder of their own, says that they are ready, and ends them when it gets a line.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

import httpx
import psutil

from benchmarks.peers.drained import ready

LOOPBACK = "127.0.0.1"
PATIENCE_S = 180.0
DEPLOY = """
import sys
import ray
from ray import serve

@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.25})
class Echo:
    async def __call__(self, request):
        return "ok"

ray.init(address=sys.argv[2])
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(Echo.bind())
"""


def main() -> None:
    """Start, wait and end."""
    folder = Path(tempfile.mkdtemp(prefix="bare-"))
    server, serve, gcs = free_port(), free_port(), free_port()
    env = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise it takes 127.0.0.1 for the outer address
        "RAY_AUTH_MODE": "disabled",  # otherwise a head finds the token of another one, and clients do not
        "RAY_TMPDIR": str(folder),
    }
    logs = (folder / "log").open("wb")
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--host", LOOPBACK, "--port", str(server)]
    ray = [
        sys.executable,
        "-m",
        "ray.scripts.scripts",
        "start",
        "--head",
        "--block",
        "--temp-dir",
        str(folder),
    ]
    ray += ["--block", "--node-ip-address", LOOPBACK, "--port", str(gcs)]
    ray += ["--dashboard-port", str(free_port()), "--num-cpus", "4", "--object-store-memory", "268435456"]
    started = [subprocess.Popen(command, env=env, stdout=logs, stderr=logs) for command in (prefect, ray)]
    try:
        until_healthy(f"http://{LOOPBACK}:{server}/api/health")
        deploy = [sys.executable, "-c", DEPLOY, str(serve), f"{LOOPBACK}:{gcs}"]
        until_deployed(deploy, env, logs)
        until_healthy(f"http://{LOOPBACK}:{serve}/")
        ready()
    finally:
        # Killed: nothing of them is kept, and a Ray head takes half a minute to end by itself.
        for process in started:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return int(free.getsockname()[1])


def until_deployed(command: list[str], env: dict[str, str], logs: IO[bytes]) -> None:
    """Deploy again until it succeeds: the Ray head may not answer yet."""
    deadline = time.monotonic() + PATIENCE_S
    while subprocess.run(command, env=env, stdout=logs, stderr=logs, timeout=PATIENCE_S).returncode:
        if time.monotonic() > deadline:
            last = Path(logs.name).read_text(errors="replace").strip().splitlines()[-1:]
            raise SystemExit(f"error: nothing could be deployed in {PATIENCE_S:g} s: {''.join(last)}")


def until_healthy(url: str) -> None:
    """Wait until ``url`` answers."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, trust_env=False, timeout=2).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"error: {url} did not answer in {PATIENCE_S:g} s")


if __name__ == "__main__":
    main()
