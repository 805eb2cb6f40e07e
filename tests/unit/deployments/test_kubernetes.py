"""The Kubernetes manifest: what Serve, this package and each other part of it would make of it.

KubeRay itself is not run here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema
from ruamel.yaml import YAML

from organism_flows.deployments.cli.commands.release.serve_config import serve_config

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parents[3] / "deployments" / "kubernetes"


@pytest.fixture(scope="module")
def manifest() -> Any:
    return YAML(typ="safe").load((HERE / "rayservice.yaml").read_text())


def containers(manifest: Any) -> Iterator[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield from group["template"]["spec"]["containers"]


async def test_it_serves_what_the_command_prints(manifest: Any, capsys: pytest.CaptureFixture[str]) -> None:
    served = YAML(typ="safe").load(manifest["spec"]["serveConfigV2"])
    await serve_config(config=HERE / "organism.yaml", as_json=True)
    assert served == json.loads(capsys.readouterr().out)
    schema = ServeDeploySchema.model_validate(served)
    assert [app.name for app in schema.applications] == ["organism", "gateway"]


def test_versions_and_images_are_one(manifest: Any) -> None:
    assert manifest["spec"]["rayClusterConfig"]["rayVersion"] == version("ray")
    assert len({container["image"] for container in containers(manifest)}) == 1


def test_secrets_come_from_secrets_and_every_replica_has_the_tokens(manifest: Any) -> None:
    assert manifest["spec"]["rayClusterConfig"]["authOptions"]["mode"] == "token"
    for container in containers(manifest):
        settings = {entry["name"]: entry for entry in container["env"]}
        assert {"ORGANISM_DSN", "ORGANISM_TOKEN"} <= set(settings)
        for name, entry in settings.items():
            secret = any(word in name for word in ("DSN", "TOKEN", "AUTH_STRING"))
            assert ("valueFrom" in entry) is (secret or name == "PREFECT_API_URL"), name


def test_pods_are_given_the_time_that_replicas_and_lanes_need(manifest: Any) -> None:
    served = YAML(typ="safe").load(manifest["spec"]["serveConfigV2"])
    drain_s = served["applications"][0]["deployments"][0]["graceful_shutdown_timeout_s"]
    assert manifest["spec"]["rayClusterDeletionDelaySeconds"] > drain_s
    for group in manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] > drain_s
