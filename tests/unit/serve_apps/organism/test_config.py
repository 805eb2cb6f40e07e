"""Configuration: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.serve_apps.organism.config import OrganismConfig, load_config, parse_config
from organism_flows.serve_apps.organism.handler_api.loading import load_handler
from tests.support.organism.helpers import MODULE, organ


def test_the_demo_organism_serves_its_types() -> None:
    assert set(load_config().task_types) >= {
        "echo",
        "sleep",
        "count",
        "health_check",
        "get_organism_status",
        "code.metrics",
        "demo.raise",
        "demo.hang",
    }


def test_every_handler_of_the_demo_organism_loads() -> None:
    for one in load_config().organs:
        assert callable(load_handler(one).call)


def test_ten_lines_add_a_type(tmp_path: Path) -> None:
    file = tmp_path / "organism.yaml"
    file.write_text("organs:\n  - id: mine\n    task_types: [mine.one]\n    handler: my_module:handle\n")
    config = load_config(file)
    assert {"mine.one", "echo", "code.metrics"} <= set(config.task_types)
    assert "demo.raise" not in config.task_types


def test_own_types_and_ids_take_the_place_of_builtin_ones() -> None:
    config = parse_config({"organs": [organ("echo", "seen"), {**organ("m", "seen"), "id": "code-metrics"}]})
    assert [one.id for one in config.organs if "echo" in one.task_types] == ["echo"]
    assert [one.handler for one in config.organs if one.id == "code-metrics"] == [f"{MODULE}:seen"]
    assert "sleep" in config.task_types


def test_without_builtin(tmp_path: Path) -> None:
    assert parse_config({"organs": [organ("a", "seen")], "include_builtin": False}).task_types == ["a"]


def test_parsing_again_changes_nothing() -> None:
    config = load_config()
    assert parse_config(config.model_dump(mode="json")) == config
    assert parse_config(config) == config


def test_limits_are_declared_and_wrong_ones_refused() -> None:
    limit = {"name": "api", "kind": "rate", "amount": 500, "period_s": 60}
    config = parse_config({"organs": [organ("a", "seen")], "limits": [limit], "weights": {"acme": 3}})
    assert config.limits is not None
    assert [(one.name, one.amount) for one in config.limits] == [("api", 500)]
    assert parse_config(config) == config
    assert config.alone(config.organs[0]).limits is None
    for wrong, words in (
        ({"limits": [limit, limit]}, "limits has 'api' 2 times"),
        ({"limits": [{**limit, "period_s": None}]}, "a rate needs period_s"),
        ({"limits": [{**limit, "amount": -1}]}, "greater than or equal to 0"),
        ({"weights": {"acme": 0}}, "greater than or equal to 1"),
        ({"weights": {"x" * 200: 2}}, "at most 125"),
    ):
        with pytest.raises(ConfigurationError) as refused:
            parse_config({"organs": [organ("a", "seen")], **wrong})
        assert words in str(refused.value)


def test_folders_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "organism.yaml"
    file.write_text("python_path: [handlers, /absolute]\n")
    assert load_config(file).python_path == [tmp_path / "handlers", Path("/absolute")]


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (
            {"organs": [{**organ("a", "seen"), "concurency": 2}]},
            ["organs[0].concurency", "not a known field"],
        ),
        ({"organs": [organ("a", "seen"), {"id": "b"}]}, ["organs[1].task_types", "missing"]),
        ({"organs": [organ("a", "seen", concurrency=0)]}, ["organs[0].concurrency", "got 0"]),
        ({"organs": [organ("a", "seen", timeout_s=-1)]}, ["organs[0].timeout_s", "got -1"]),
        ({"organs": [organ("a", "seen", timeout_s=float("nan"))]}, ["organs[0].timeout_s", "got nan"]),
        ({"organs": [organ("a", "seen", kind="psychic")]}, ["organs[0].kind", "'psychic'"]),
        (
            {"organs": [organ("a", "no_colon_here.at all:x")]},
            ["organs[0].handler", "package.module:function"],
        ),
        ({"organs": [organ("a", "seen"), organ("a", "seen")]}, ["organs[1].id 'a'", "organs[0]"]),
        (
            {"organs": [organ("a", "seen"), {**organ("a", "seen"), "id": "b"}]},
            ["organs[1].task_types[0] 'a'", "organ 'a'"],
        ),
        ({"organs": [], "include_builtin": False}, ["organs is empty"]),
        ({"organs": {}}, ["organs", "list"]),
        ({"result_limit_bytes": 1}, ["result_limit_bytes", "got 1"]),
        (
            {"escalation": {"drift_score": 0.5, "planner": "nobody"}},
            ["escalation.planner 'nobody'", "basics"],
        ),
        ({"escalation": {"planner": "basics"}}, ["escalation: needs drift_score or cusum"]),
        ({"escalation": {"cusum": {"expected": 0.1, "bound": 0}}}, ["escalation.cusum.bound", "got 0"]),
        (
            {"organs": [organ("a b", "seen"), organ("a/b", "seen", deployment={})]},
            ["organs[0].id", "'a b'"],
        ),
        ({"organs": [organ("a/b", "seen", deployment={})]}, ["organs[0]", "'a/b'", "A-Z a-z 0-9 _ . -"]),
        (
            {
                "organs": [
                    organ("a", "seen", deployment={"autoscaling": {"min_replicas": 3, "max_replicas": 2}})
                ]
            },
            ["organs[0].deployment.autoscaling", "min_replicas 3 is more than max_replicas 2"],
        ),
        (
            {"organs": [organ("a", "seen", deployment={"num_gpu": 1})]},
            ["organs[0].deployment.num_gpu is not"],
        ),
        ({"default_organ": "nobody"}, ["default_organ 'nobody'", "basics"]),
        (
            {"organs": [organ("a", "seen"), {**organ("a", "seen", domains=["d"]), "id": "b"}] * 2},
            ["organs[2].id 'a'"],
        ),
        (
            {
                "organs": [
                    organ("a", "seen", domains=["d", "e"]),
                    {**organ("a", "seen", domains=["e"]), "id": "b"},
                ]
            },
            ["organs[1].task_types[0] 'a'", "organ 'a' for domain 'e'"],
        ),
        ({"organs": [{**organ("a", "seen"), "task_types": ["x", "x"]}]}, ["task_types[1] 'x'", "organ 'a'"]),
        ([], ["a list, not a mapping"]),
        (None, ["empty, not a mapping"]),
    ],
)
def test_a_wrong_field_is_named_on_one_line(raw: Any, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_config(raw)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("organs: [", ["line 1", "not valid YAML"]),
        ("organs: []\norgans: []\n", ["line 2", "not valid YAML", "organs"]),
        ("", ["empty, not a mapping"]),
        ("organs: !!python/object:os.system []\n", ["not valid YAML"]),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "organism.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_config(file)
    for word in [str(file), *words]:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml cannot be read"):
        load_config(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        ("no_such_module:handle", ["ModuleNotFoundError", "no_such_module"]),
        (f"{MODULE}:sein", ["has no sein", "did you mean seen?"]),
        (f"{MODULE}:not_callable", ["a int cannot be called"]),
        (f"{MODULE}:takes_two", ["cannot be called with one task", "other"]),
        (f"{MODULE}:yields", ["a generator yields results one by one: return one value"]),
        (f"{MODULE}:yields_async", ["a generator yields"]),
        (f"{MODULE}:Yielding", ["a generator yields"]),
        (
            f"{MODULE}:batch_with_params",
            ["a list of tasks and their `contexts`, and no params"],
        ),
        (f"{MODULE}:Broken", ["OSError: model file is missing", "misbehaviour.py:"]),
    ],
)
def test_a_handler_that_cannot_be_used_says_why(handler: str, words: list[str]) -> None:
    batch = handler.endswith("batch_with_params")
    config = OrganismConfig.model_validate({"organs": [organ("a", handler, batch=batch)]})
    with pytest.raises(ConfigurationError) as caught:
        load_handler(config.organs[0])
    for word in ["organ 'a'", handler, *words]:
        assert word in str(caught.value)


def test_a_module_that_exits_on_import_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exits_on_import.py").write_text("import sys\nsys.exit('not today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = OrganismConfig.model_validate({"organs": [organ("a", "exits_on_import:handle")]})
    with pytest.raises(ConfigurationError, match="SystemExit: not today"):
        load_handler(config.organs[0])
