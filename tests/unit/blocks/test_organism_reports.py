"""The reports of a replica: every field, by name, in the JSON that callers and routes have known so far."""

from __future__ import annotations

from typing import Any

import pytest

from organism_flows.blocks.errors import OrganismUnavailable
from organism_flows.blocks.organism_reports import HealthReport, StatusReport
from organism_flows.serve_apps.organism.manager import OrganismManager

CONFIG: dict[str, Any] = {"organs": [], "include_builtin": True}
HEALTH = ["status", "organism_initialized", "problem", "refused_configuration", "uptime_s", "pid", "replica"]
HEALTH += ["version", "wire_version"]
STATUS = ["task_types", "organs", "totals", "draining", "lingering", "retiring_organs", "escalation", "drift"]
STATUS += ["environment", "config"]
ORGAN = {"id", "handler", "concurrency", "drain_s", "form", "in_flight", "waiting", "suspects", "abandoned"}
ORGAN |= {"longest", "agents", "completed", "failed", "interrupted", "latency_ms"}
TOTALS = {"in_flight", "waiting", "abandoned", "completed", "failed", "rejected", "timed_out", "cancelled"}
TOTALS |= {"interrupted"}


def test_the_reports_have_the_fields_they_had() -> None:
    manager = OrganismManager(CONFIG)
    health, status = manager.health(), manager.status()
    assert list(health) == HEALTH
    assert list(status) == HEALTH + STATUS
    assert {name: value for name, value in health.items() if name != "uptime_s"}.items() <= status.items()
    assert status["organs"]["basics"].keys() >= ORGAN
    assert status["totals"].keys() == TOTALS
    assert status["environment"].keys() >= {"python", "packages", "variables", "import_path", "gpus"}
    assert {organ["id"] for organ in status["config"]["organs"]} == status["organs"].keys()


def test_a_caller_reads_what_a_replica_has_built_and_passes_it_on_as_it_is() -> None:
    plain = OrganismManager(CONFIG).status()
    report = StatusReport.of(plain)
    assert report.plain() == plain
    assert report.served_types == plain["task_types"]
    assert report.organs["basics"].in_flight == 0
    newer = {"status": "degraded", "refused_configuration": "no such handler", "from_a_newer_version": [1]}
    health = HealthReport.of(newer)
    assert health.plain() == newer
    assert (health.reason, health.organism_initialized) == ("no such handler", False)


@pytest.mark.parametrize("answer", [None, [], {}, {"status": "well"}])
def test_another_answer_is_an_organism_that_cannot_be_used(answer: object) -> None:
    with pytest.raises(OrganismUnavailable, match="the organism's answer is not a HealthReport"):
        HealthReport.of(answer)
