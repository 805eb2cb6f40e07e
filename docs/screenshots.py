"""Take the pictures of the documentation, in headless Chromium.

Those of docs/reference/prefect-ui.md are of a running stack's Prefect UI. Those of docs/how-to/board.md are
of a queue that is made for them (docs/board_pictures.py), and need no stack:

    organism demo --keep && python docs/screenshots.py
    python docs/screenshots.py failures form   # only these
    python docs/screenshots.py board           # those of the board
    python docs/screenshots.py trace           # of a trace

Needs `chromium` on the PATH. The newest run of each flow is taken; the watchdog's comes by its schedule, and
verify is run where it has not been.
"""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

# Before Prefect: it points it at the stack.
import organism_flows.flows  # noqa: F401

# isort: split

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterStartTime,
)
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_UI_URL

sys.path.insert(0, str(Path(__file__).parent.parent))
from docs.chromium import Page, find_chromium, open_page

IMAGES = Path(__file__).parent / "images"
WIDTH = 1400
STARTED = FlowRunFilter(start_time=FlowRunFilterStartTime(is_null_=False))
Address = Callable[[PrefectClient], Awaitable[str]]


async def take(page: Page, path: str, name: str, height: int) -> None:
    """Write the page at ``path`` of the UI to ``docs/images/<name>.png``."""
    await page.resize(WIDTH, height)
    await page.go(f"{PREFECT_UI_URL.value()}{path}")
    await page.settled()
    await page.picture(IMAGES / f"{name}.png")
    print(IMAGES / f"{name}.png")


async def sign_in(page: Page) -> None:
    """Have every page find the password where the UI keeps it."""
    if secret := PREFECT_API_AUTH_STRING.value():
        password = base64.b64encode(secret.encode()).decode()
        await page.run_at_load(f"localStorage.setItem('prefect-password', {password!r})")


async def newest_run(client: PrefectClient, flow: str) -> Any:
    """The newest run of ``flow`` that is not waiting to start."""
    started = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])),
        flow_run_filter=STARTED,
        sort=FlowRunSort.START_TIME_DESC,
        limit=1,
    )
    if not started:
        sys.exit(f"error: no run of {flow} yet → run `organism demo --keep` first, and wait half a minute")
    return started[0]


def page_of(flow: str) -> Address:
    """Where the page of the newest run of ``flow`` is."""

    async def address(client: PrefectClient) -> str:
        return f"/runs/flow-run/{(await newest_run(client, flow)).id}"

    return address


def artifact_of(flow: str, key: str) -> Address:
    """Where the artifact ``key`` of the newest run of ``flow`` is."""

    async def address(client: PrefectClient) -> str:
        run = await newest_run(client, flow)
        found = await client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        )
        for artifact in found:
            if artifact.key == key:
                return f"/artifacts/artifact/{artifact.id}"
        sys.exit(f"error: {run.name} has no artifact {key}")

    return address


async def verification(client: PrefectClient) -> str:
    """Where the page of a verification is; of one made now, if there is none."""
    flow = FlowFilter(name=FlowFilterName(any_=["verify"]))
    if not await client.read_flow_runs(flow_filter=flow, flow_run_filter=STARTED, limit=1):
        from organism_flows.flows.verify import verify

        await verify(return_state=True)
    return await artifact_of("verify", "verification")(client)


async def form(client: PrefectClient) -> str:
    """Where a run of dispatch with other parameters is started."""
    deployment = await client.read_deployment_by_name("dispatch/organism")
    return f"/deployments/deployment/{deployment.id}/run"


async def at(path: str) -> str:
    return path


PICTURES: dict[str, tuple[Address, int]] = {
    "flow-run": (page_of("dispatch"), 1150),
    "failures": (artifact_of("dispatch", "dispatch-failures"), 620),
    "verification": (verification, 1150),
    "watchdog": (page_of("watchdog"), 900),
    "deployments": (lambda _: at("/deployments"), 720),
    "form": (form, 1250),
    "events": (lambda _: at("/events"), 900),
}


async def main() -> None:
    if sys.argv[1:] == ["board"]:
        from docs.board_pictures import take_board

        await take_board(IMAGES)
        return
    if sys.argv[1:] == ["trace"]:
        from docs.trace_picture import take_trace

        await take_trace(IMAGES)
        return
    names = sys.argv[1:] or list(PICTURES)
    for name in names:
        if name not in PICTURES:
            sys.exit(f"error: no picture is called {name} → one of {', '.join(PICTURES)}")
    async with get_client() as client:
        addresses = {name: await PICTURES[name][0](client) for name in names}
    if (chromium := find_chromium()) is None:
        sys.exit("error: no chromium on the PATH → install it, for example `apt install chromium`")
    async with open_page(chromium) as page:
        await sign_in(page)
        for name, path in addresses.items():
            await take(page, path, name, PICTURES[name][1])


if __name__ == "__main__":
    asyncio.run(main())
