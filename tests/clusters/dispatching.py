"""Runs of dispatch on a cluster of the tests, and where their lanes are."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

from organism_flows.blocks.queue import Queue
from tests.clusters.cluster import Cluster
from tests.support.sql import pool_of


def dispatching(made: Cluster, *arguments: str, **env: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "organism_flows.deployments.cli.main", "dispatch", *arguments, "--json"]
    return made.flows.start(*command, env={**made.env, **env})


async def finish(process: subprocess.Popen[str], patience: float = 180) -> tuple[int, Any, str]:
    out, err = await asyncio.to_thread(process.communicate, timeout=patience)
    return process.returncode, json.loads(out) if out.strip() else None, err


async def hosts_of_lanes(queue: Queue) -> set[str]:
    return {row["host"] for row in await pool_of(queue).fetch("SELECT host FROM lanes")}
