"""Take the picture of the README: the newest dispatch run of a running stack, in headless Chromium.

    organism demo --keep && python docs/screenshots.py

Needs `chromium` on the PATH.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The UI loads its data after its scripts; virtual time runs until nothing is pending.
    "--virtual-time-budget=20000",
]


def take(url: str, name: str, *, height: int) -> None:
    """Write the page at ``url`` to ``docs/images/<name>.png``."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("error: no chromium on the PATH → install it, for example `apt install chromium`")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--window-size=1400,{height}",
                f"--screenshot={IMAGES / name}.png",
                url,
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    print(IMAGES / f"{name}.png")


async def newest_run() -> str:
    """Address of the newest dispatch run's page."""
    import flows  # noqa: F401, I001  # points Prefect at the stack

    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.settings import PREFECT_UI_URL

    async with get_client() as client:
        runs = await client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC, limit=1)
    if not runs:
        sys.exit("error: no flow run yet → run `organism demo --keep` first")
    return f"{PREFECT_UI_URL.value()}/runs/flow-run/{runs[0].id}"


if __name__ == "__main__":
    take(asyncio.run(newest_run()), "flow-run", height=1150)
