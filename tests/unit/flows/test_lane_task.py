"""A lane on Ray, from the flow's side, where Ray does not take it."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from organism_flows.blocks.errors import OrganismUnavailable
from organism_flows.blocks.prefect_blocks.organism import Organism
from organism_flows.blocks.prefect_blocks.ray_cluster import RayCluster
from organism_flows.blocks.prefect_blocks.task_queue import TaskQueue
from organism_flows.flows.supervision import lane_task
from organism_flows.flows.supervision.lane_task import LaneOptions, LaneRun


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.AuthenticationError(
            "WrongClusterID: Perhaps the client is accessing GCS after it has restarted."
        ),
        ray.exceptions.RaySystemError("System error: Broken pipe"),
        ConnectionError("Failed to connect to GCS"),
    ],
)
def test_a_cluster_that_was_replaced_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Lane:
        def with_options(self, **_: Any) -> Lane:
            return self

        def submit(self, *_: Any) -> Any:
            raise error

    monkeypatch.setattr(lane_task, "run_lane", Lane())
    options = LaneOptions(
        run="r", batch_size=1, tasks_in_flight=1, until_empty=True, max_seconds=None, grace_s=1
    )
    with pytest.raises(OrganismUnavailable, match=r"the Ray cluster was lost: .* on starting lane-3 → start"):
        LaneRun(3, RayCluster(), TaskQueue(), Organism(), options, timeout_s=None)
