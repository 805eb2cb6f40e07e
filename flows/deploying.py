"""Our blocks, work pool and deployments on a Prefect server; also `python -m flows.deploying`.

The deployments are those of deployments/prefect.yaml, applied by Prefect's own command, so that what we do is
what anybody can do by hand.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from contextlib import suppress
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel

from blocks.errors import ConfigurationError, OrganismError
from blocks.registration import register_blocks

POOL = "organism"
TAG = "organism"
"""Of all our deployments, in deployments/prefect.yaml."""
DEPLOY_TIMEOUT_S = 120.0
NOT_FOUND = 404


class Applied(BaseModel):
    """What a Prefect server has now."""

    api: str
    deployments: list[str]
    """By flow and name: ``dispatch/organism``."""
    new_pool: bool
    """The work pool was not there before."""


def prefect_yaml() -> Path:
    """The file the deployments are in."""
    return Path(str(resources.files("deployments").joinpath("prefect.yaml")))


async def apply() -> Applied:
    """Register blocks, make the work pool if it is missing, apply every deployment; safe to repeat.

    Afterwards deployments are as prefect.yaml has them, whatever was changed in the UI: also which schedules
    are on.

    Raises:
        ConfigurationError: No Prefect server is configured.
        OrganismError: It cannot be reached, or refuses.
    """
    from prefect.settings import PREFECT_API_URL

    api = PREFECT_API_URL.value()
    if not api:
        raise ConfigurationError(
            "no Prefect server is configured: PREFECT_API_URL is not set", "run `organism up`, or set it"
        )
    try:
        await register_blocks()
        new_pool = await _ensure_pool()
    except OSError as error:
        raise _unreachable(api, error) from None
    except Exception as error:
        import httpx

        if isinstance(error, httpx.HTTPError):
            raise _unreachable(api, error) from None
        raise
    await _deploy()
    return Applied(api=api, deployments=await _ours(), new_pool=new_pool)


def _unreachable(api: str, error: Exception) -> OrganismError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return OrganismError(f"the Prefect server at {api} does not answer: {reason[:200]}", "start or reach it")


async def _ensure_pool() -> bool:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    async with get_client() as client:
        try:
            await client.read_work_pool(POOL)
            return False
        except ObjectNotFound:
            pass
        with suppress(ObjectAlreadyExists):  # somebody else was quicker
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        return True


async def _deploy() -> None:
    command = [sys.executable, "-P", "-m", "prefect", "--no-prompt", "deploy", "--all"]
    process = await asyncio.create_subprocess_exec(
        *command,
        "--prefect-file",
        str(prefect_yaml()),
        env={**os.environ, "PREFECT_CLI_COLORS": "false", "COLUMNS": "200"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(), DEPLOY_TIMEOUT_S)
    except TimeoutError:
        raise OrganismError(
            f"`prefect deploy` did not end within {DEPLOY_TIMEOUT_S:g} s", "see how the Prefect server fares"
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        words = [line.strip() for line in out.decode(errors="replace").splitlines() if line.strip()]
        raise OrganismError(
            f"`prefect deploy` ended with {process.returncode}: {' / '.join(words[-3:])[:400]}",
            f"see what is wrong with {prefect_yaml()} or the server",
        )


async def _ours() -> list[str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    async with get_client() as client:
        found = await client.read_deployments(
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])), limit=200
        )
        flows = {d.flow_id for d in found}
        names = {flow_id: (await client.read_flow(flow_id)).name for flow_id in flows}
        return sorted(f"{names[d.flow_id]}/{d.name}" for d in found)


def digest() -> str:
    """Of what `apply` applies: it changes when applying again would change something."""
    return hashlib.sha256(prefect_yaml().read_bytes() + version("organism-flows").encode()).hexdigest()


def main(mark: Path | None = None) -> int:
    """Apply, and say on one line what there is or what is wrong.

    Args:
        mark: File that says what was applied last; the same is not applied again, because that would put the
            schedules back which somebody has turned on or off.
    """
    try:
        if mark is not None and mark.is_file() and mark.read_text() == digest():
            print("applied before")
            return 0
        applied = asyncio.run(apply())
        if mark is not None:
            mark.write_text(digest())
    except (OrganismError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{applied.api}: {', '.join(applied.deployments)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
