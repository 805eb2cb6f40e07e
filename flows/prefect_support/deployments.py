"""Our blocks, work pool and deployments on a Prefect server.

Also a program, which `organism up` starts together with the server: it imports what it needs, and begins when
its standard input is closed. The module imports Prefect when it is used: `organism up` asks it whether there
is anything to apply.

The deployments are those of deployments/prefect.yaml. Prefect's own command applies them, so you can do the
same by hand.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import io
import os
import ssl
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import BaseModel

from organism_flows.blocks.errors import OrganismError
from organism_flows.blocks.gc_tuning import importing
from organism_flows.flows.prefect_support.server import reaching_prefect

if TYPE_CHECKING:
    from prefect.client.schemas.responses import DeploymentResponse

WATCHDOG = "watchdog/organism"
WORK_POOL_NAME = "organism"
POOL_TYPE = "process"
JOB_TEMPLATE: dict[str, Any] = {
    # No `command`, `env` or `working_dir`: with Prefect's own template a run may set a command line, which
    # the worker then executes. `env` must be absent: the `env` of a run would be merged into it (3.8.8).
    "job_configuration": {
        "name": "{{ name }}",
        "labels": "{{ labels }}",
        "stream_output": "{{ stream_output }}",
    },
    "variables": {
        "type": "object",
        # The server refuses a run that sets others, instead of ignoring them.
        "additionalProperties": False,
        "properties": {
            "name": {
                "type": "string",
                "title": "Name",
                "description": "Name of the process in the worker's log.",
            },
            "labels": {
                "type": "object",
                "title": "Labels",
                "additionalProperties": {"type": "string"},
                "description": "Labels of the process.",
            },
            "stream_output": {
                "type": "boolean",
                "title": "Stream Output",
                "default": True,
                "description": "Whether the worker's log shows what the process prints.",
            },
        },
    },
}
"""Job template of the work pool: it limits what a run may set for its process."""
DEPLOY_TIMEOUT_S = 120.0
DECISION_VARIABLE = {
    "entrypoint",
    "description",
    "parameters",
    "parameter_openapi_schema",
    "enforce_parameter_schema",
    "tags",
    "version",
    "paused",
    "work_pool_name",
    "job_variables",
    "pull_steps",
    "concurrency_options",
}
"""Fields of a deployment that people decide. The server manages the others itself."""


class AppliedDeployments(BaseModel):
    """Result of applying the deployments to a Prefect server."""

    api: str
    deployments: list[str]
    """Flow and name of each deployment, such as ``dispatch/organism``."""
    new_pool: bool
    """True if the work pool did not exist before."""
    changed: list[str]
    """Names of the deployments that are new or changed."""


def prefect_yaml() -> Path:
    """Return the path of the file with the deployments."""
    return Path(str(resources.files("organism_flows.deployments").joinpath("prefect.yaml")))


async def apply(
    *, start: bool = True, run_deploy: Callable[[Path], Awaitable[None]] | None = None
) -> AppliedDeployments:
    """Register blocks, create a missing work pool, and apply every deployment. Safe to repeat.

    Afterwards the deployments are as in prefect.yaml, whatever was changed in the UI. Only schedules stay as
    people left them: on or off, and with those that they added.

    Args:
        start: Start a watchdog run if its deployment is new or changed.
        run_deploy: Runs Prefect's own command with a file. Unset: in a process of its own.

    Raises:
        ConfigurationError: No Prefect server is configured.
        OrganismError: The server cannot be reached, or refuses.
    """
    with reaching_prefect() as api:
        from organism_flows.blocks.prefect_blocks.registration import register_blocks
        from organism_flows.flows.prefect_support.watchdog_relay import start_watchdog

        await register_blocks()
        new_pool = await _ensure_pool()
        before = await _ours()
        await _deploy(before, run_deploy or _run_deploy)
        after = await _ours()
        changed = sorted(name for name in after if name not in before or _differ(before[name], after[name]))
        if start and WATCHDOG in changed:
            await start_watchdog()
    return AppliedDeployments(api=api, deployments=sorted(after), new_pool=new_pool, changed=changed)


async def _ensure_pool() -> bool:
    """Create the work pool, or give our template to the one that exists. Return True if it is new."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    async with get_client() as client:
        try:
            pool = await client.read_work_pool(WORK_POOL_NAME)
        except ObjectNotFound:
            new = WorkPoolCreate(name=WORK_POOL_NAME, type=POOL_TYPE, base_job_template=JOB_TEMPLATE)
            with suppress(ObjectAlreadyExists):  # another process was quicker
                await client.create_work_pool(new)
            return True
        # A pool of another type runs flows elsewhere; its template is its operator's decision.
        if pool.type == POOL_TYPE and pool.base_job_template != JOB_TEMPLATE:
            await client.update_work_pool(WORK_POOL_NAME, WorkPoolUpdate(base_job_template=JOB_TEMPLATE))
        return False


async def _deploy(
    there: dict[str, DeploymentResponse], run_deploy: Callable[[Path], Awaitable[None]]
) -> None:
    from ruamel.yaml import YAML

    from organism_flows.flows.prefect_support.schedules import as_left, delete_retired

    wanted = YAML(typ="safe").load(prefect_yaml().read_text())
    with tempfile.TemporaryDirectory(prefix="organism-deploy-") as folder:
        file = Path(folder) / prefect_yaml().name
        file.write_text(as_left(wanted, there))
        await run_deploy(file)
    await delete_retired(wanted, there)


DEPLOY_ALL = ("--no-prompt", "deploy", "--all", "--prefect-file")


async def _run_deploy(file: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-P", "-m", "prefect", *DEPLOY_ALL, str(file)],
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
        raise _refused(process.returncode, out.decode(errors="replace"))


async def _run_deploy_here(file: Path) -> None:
    """Run Prefect's command in this process, which has imported Prefect and belongs to nobody else.

    That saves the two seconds in which a process of its own imports the same again.
    """
    from prefect.cli import app

    said = io.StringIO()

    def run() -> Any:
        sys.argv = ["prefect", *DEPLOY_ALL, str(file)]
        try:
            app()
        except SystemExit as end:
            return end.code
        return 0

    with redirect_stdout(said):
        if code := await asyncio.to_thread(run):
            raise _refused(code, said.getvalue())


def _refused(code: object, said: str) -> OrganismError:
    words = [line.strip() for line in said.splitlines() if line.strip()]
    return OrganismError(
        f"`prefect deploy` ended with {code}: {' / '.join(words[-3:])[:400]}",
        f"see what is wrong with {prefect_yaml()} or the server",
    )


def _import_flows() -> None:
    """Import what `apply` needs, which takes seconds, and every flow, which Prefect's command imports."""
    import prefect.cli.deploy  # noqa: F401
    from ruamel.yaml import YAML

    for deployment in YAML(typ="safe").load(prefect_yaml().read_text())["deployments"]:
        module, _, _ = deployment["entrypoint"].rpartition(".")
        importlib.import_module(module)


async def _ours() -> dict[str, DeploymentResponse]:
    from prefect.client.orchestration import get_client

    from organism_flows.flows.prefect_support.schedules import ours

    async with get_client() as client:
        return await ours(client)


def _differ(one: DeploymentResponse, other: DeploymentResponse) -> bool:
    return _purpose(one) != _purpose(other)


def _purpose(deployment: DeploymentResponse) -> dict[str, Any]:
    limit = deployment.global_concurrency_limit
    schedules = [
        s.model_dump(mode="json", include={"slug", "schedule", "active", "parameters"})
        for s in deployment.schedules
    ]
    return {
        **deployment.model_dump(mode="json", include=DECISION_VARIABLE),
        "limit": limit.limit if limit else None,
        "schedules": sorted(schedules, key=str),
    }


def digest() -> str:
    """Return a digest of what `apply` applies. It differs if applying again would change something."""
    ours = (prefect_yaml().read_bytes(), orjson.dumps(JOB_TEMPLATE), version("organism-flows").encode())
    return hashlib.sha256(b"".join(ours)).hexdigest()


def applied_before(mark: Path) -> bool:
    """Return True if what `apply` would apply is what ``mark`` records. To apply it again takes seconds."""
    return mark.is_file() and mark.read_text() == digest()


def main(mark: Path | None = None, older: Path | None = None) -> int:
    """Apply the deployments, print the result or the error on one line, and return the exit code.

    Args:
        mark: File that records what was applied, for `applied_before`.
        older: SQLite file of the Prefect server that was used before. Its schedules are carried over once.
    """
    from organism_flows.flows.prefect_support import carry_over

    # Each of Prefect's clients loads all root certificates, in 20 ms of processor time, and there are eighty.
    vars(ssl)["create_default_context"] = cache(ssl.create_default_context)
    try:
        with importing():
            _import_flows()
        sys.stdin.read()
        first = mark is None or not mark.exists()
        # `organism up` starts a watchdog run with the worker.
        applied = asyncio.run(apply(start=False, run_deploy=_run_deploy_here))
        if first and older is not None and older.exists():
            with reaching_prefect():
                print(f"carried over from {older}: {', '.join(asyncio.run(carry_over.apply(older))) or '-'}")
        if mark is not None:
            mark.write_text(digest())
    except (OrganismError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{applied.api}: {', '.join(applied.deployments)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
