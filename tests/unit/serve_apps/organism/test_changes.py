"""What deploying changes, and why, in words."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import ServeDeploySchema

from organism_flows.serve_apps.organism.config import parse_config
from organism_flows.serve_apps.organism.release.changes import Effect, compare
from organism_flows.serve_apps.organism.release.serve_config import serve_config


def organ(name: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "task_types": [name], "handler": "installed:handle", **more}


def wanted(*organs: dict[str, Any], replicas: int = 2, num_cpus: float = 0.25, **more: Any) -> dict[str, Any]:
    """An application as Serve keeps it."""
    config = parse_config({"organs": list(organs) or [organ("a")], "include_builtin": False, **more})
    app = serve_config(config, replicas=replicas, num_cpus=num_cpus)
    schema = ServeDeploySchema.model_validate(app)
    kept: dict[str, Any] = schema.model_dump(exclude_unset=True)["applications"][0]
    assert kept == app["applications"][0], "nothing is added to what was deployed"
    return kept


def with_code(app: dict[str, Any], **code: str) -> dict[str, Any]:
    return {**app, "args": {**app["args"], "code": {f"{name}.py": digest for name, digest in code.items()}}}


def told(before: dict[str, Any] | None, after: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(c.deployment, c.effect.value, "; ".join(c.why)) for c in compare(before, after)]


def test_the_same_changes_nothing() -> None:
    app = wanted(organ("a"), organ("b", deployment={}), escalation={"cusum": {"expected": 0.1}})
    assert compare(app, deepcopy(app)) == []


def test_where_nothing_is_deployed_it_is_started() -> None:
    assert [change.effect for change in compare(None, wanted())] == [Effect.STARTED]


@pytest.mark.parametrize(
    ("organs", "why"),
    [
        ([organ("a", timeout_s=5)], "timeout_s of organ a"),
        ([organ("a"), organ("b")], "organ b is new"),
        ([organ("b", task_types=["t"])], "organ a is gone; organ b is new"),
        ([organ("a", drain_s=60)], "graceful_shutdown_timeout_s 40 → 70; drain_s of organ a"),
    ],
)
def test_a_configuration_is_applied_in_place(organs: list[dict[str, Any]], why: str) -> None:
    assert told(wanted(), wanted(*organs)) == [("OrganismManager", "changed in place", why)]


def test_a_folder_more_is_a_matter_of_configuration(tmp_path: Path) -> None:
    after = wanted(python_path=[str(tmp_path)])
    assert told(wanted(), after) == [("OrganismManager", "changed in place", "python_path")]


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ({"handlers": "1"}, {"handlers": "2"}, "handlers.py changed"),
        (
            {"handlers": "1", "helper": "1"},
            {"handlers": "2", "other": "1"},
            "handlers.py changed; other.py is new; helper.py is not imported any more",
        ),
        (
            {f"m{n}": "1" for n in range(9)},
            {f"m{n}": "2" for n in range(9)},
            "m0.py changed; m1.py changed; m2.py changed; 6 more files of handlers' code",
        ),
    ],
)
def test_code_that_changed_is_named(before: dict[str, str], after: dict[str, str], why: str) -> None:
    apps = with_code(wanted(), **before), with_code(wanted(), **after)
    assert told(*apps) == [("OrganismManager", "replaced", why)]


def test_code_deployed_by_an_older_version_has_no_names() -> None:
    before = wanted()
    before["args"]["code"] = "0123456789abcdef"
    assert told(before, with_code(wanted(), handlers="1")) == [
        ("OrganismManager", "replaced", "the handlers' code changed")
    ]


def test_other_resources_replace_only_whom_they_are_for() -> None:
    before = wanted(organ("a"), organ("b", deployment={}))
    after = wanted(organ("a"), organ("b", deployment={"num_gpus": 1}))
    assert told(before, after) == [
        ("OrganismManager", "changed in place", "deployment of organ b"),
        ("organ-b", "replaced", "num_gpus unset → 1"),
    ]
    assert told(before, wanted(organ("a"), organ("b", deployment={}), num_cpus=1)) == [
        ("OrganismManager", "replaced", "num_cpus 0.25 → 1")
    ]


def test_an_organ_that_moves_out_replaces_everything() -> None:
    before, after = wanted(organ("a"), organ("b")), wanted(organ("a"), organ("b", deployment={}))
    why = "organ b is to be a deployment of its own"
    assert told(before, after) == [("OrganismManager", "replaced", why), ("organ-b", "started", "it is new")]
    [manager, apart] = compare(after, before)
    assert (manager.effect, manager.organs) == (Effect.REPLACED, ["a"]), "b's tasks are on b's replicas"
    assert (apart.effect, apart.organs) == (Effect.REMOVED, ["b"])


def test_fewer_replicas_end_some() -> None:
    assert told(wanted(), wanted(replicas=1)) == [
        ("OrganismManager", "scaled down", "num_replicas 2 → 1"),
    ]
    assert told(wanted(replicas=1), wanted()) == [
        ("OrganismManager", "changed in place", "num_replicas 1 → 2"),
    ]


def test_the_rest_has_words_too() -> None:
    app = wanted()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"runtime_env": {"working_dir": "s3://b/2.zip"}}, "working_dir changed"),
        ({"import_path": "other:build"}, "import_path changed"),
        ({"args": {**app["args"], "retry": "x"}}, "Serve had given it up"),
        ({"args": {**app["args"], "valve": True}}, "the drift valve is new"),
    ]
    for changed, why in cases:
        assert told(app, {**app, **changed}) == [("OrganismManager", "replaced", why)]
