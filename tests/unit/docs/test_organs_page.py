"""docs/how-to/organs.md: its configuration is what Serve takes, and its handler does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.serve.schema import ServeDeploySchema

from organism_flows.serve_apps.organism.config import load_config
from organism_flows.serve_apps.organism.manager import OrganismManager
from organism_flows.serve_apps.organism.release.serve_config import serve_config
from tests.support.organism.helpers import batch, run
from tests.support.page import Page

PAGE = Page("how-to/organs.md")


def test_its_organ_runs_on_what_it_asks_for(tmp_path: Path) -> None:
    PAGE.write(tmp_path, ("python", "my_models.py"), ("yaml", "organism.yaml"))
    config = load_config(tmp_path / "organism.yaml")
    schema = ServeDeploySchema.model_validate(serve_config(config))
    [app] = schema.applications
    [_, organ] = app.deployments
    assert (organ.name, app.args["organs"]) == ("organ-captions", ["captions"])
    assert organ.ray_actor_options.num_gpus == 1
    assert organ.ray_actor_options.memory == 8e9
    assert organ.max_ongoing_requests == 2
    scaling = organ.autoscaling_config
    assert isinstance(scaling, dict)
    assert (scaling["min_replicas"], scaling["max_replicas"]) == (0, 4)
    assert scaling["target_ongoing_requests"] == 1.4


@pytest.mark.anyio
async def test_its_handler_runs_on_the_organs_replica(tmp_path: Path) -> None:
    PAGE.write(tmp_path, ("python", "my_models.py"), ("yaml", "organism.yaml"))
    config = load_config(tmp_path / "organism.yaml")
    there = OrganismManager(config.alone(config.organs[0]))
    result = await run(there, batch(*[("caption", {"text": f"tea {n}"}) for n in range(5)]))
    assert list(result.results.values()) == [f"Tea {n}" for n in range(5)]
