"""Which organ a task goes to: by type and domain, else by type, else the default."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.serve_apps.organism.config import parse_config
from organism_flows.serve_apps.organism.execution.local.local_organ import LocalOrgan
from organism_flows.serve_apps.organism.execution.router import NoOrgan, Router
from organism_flows.serve_apps.organism.execution.shared_state import SharedState
from organism_flows.serve_apps.organism.handler_api.handler import Handler
from tests.support.organism.helpers import organ, organism

TYPES = "tuv"
DOMAINS = "abc"


def router(*organs: dict[str, Any], **more: Any) -> Router:
    config = parse_config({"organs": list(organs), "include_builtin": False, **more})
    rules = SharedState(result_limit_bytes=1000)
    handler = Handler(call=lambda _: None, is_async=False)
    return Router(config, {one.id: LocalOrgan(one, handler, rules) for one in config.organs})


def served(name: str, types: Iterable[str], domains: str = "") -> dict[str, Any]:
    return {**organ(name, "seen"), "task_types": list(types), "domains": list(domains)}


def test_the_domain_comes_before_the_type_and_the_type_before_the_default() -> None:
    found = router(served("rest", "x"), served("all", "t"), served("some", "t", "ab"), default_organ="rest")
    for kind, domain, expected in [
        ("t", "a", "some"),
        ("t", "b", "some"),
        ("t", "c", "all"),
        ("t", None, "all"),
        ("u", "a", "rest"),
        ("u", None, "rest"),
    ]:
        assert found.route(kind, domain).config.id == expected


def test_a_type_served_for_other_domains_only_says_for_which() -> None:
    found = router(served("some", "t", "ab"))
    with pytest.raises(NoOrgan, match="no organ serves type 't' for domain 'c'; it is served for: a, b"):
        found.route("t", "c")
    with pytest.raises(NoOrgan, match="for tasks without a domain; it is served for: a, b"):
        found.route("t", None)


def test_an_unknown_type_names_the_nearest_ones() -> None:
    found = router(served("o", ["report.daily", "report.weekly", "mail"]))
    with pytest.raises(NoOrgan, match=r"'report\.dayly'; nearest known: report\.daily"):
        found.route("report.dayly", None)


places = st.tuples(st.sets(st.sampled_from(TYPES), min_size=1), st.sets(st.sampled_from(DOMAINS)))


@given(
    st.lists(places, min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from(TYPES),
    st.sampled_from([None, *DOMAINS]),
)
def test_it_agrees_with_reading_the_configuration(
    given_organs: list[tuple[set[str], set[str]]], default: bool, kind: str, domain: str | None
) -> None:
    organs = [
        served(f"o{n}", "".join(sorted(types)), "".join(sorted(domains)))
        for n, (types, domains) in enumerate(given_organs)
    ]
    more = {"default_organ": "o0"} if default else {}
    claims = [(t, d) for types, domains in given_organs for t in types for d in domains or [None]]
    if len(set(claims)) < len(claims):
        with pytest.raises(ConfigurationError, match="is already served by"):
            router(*organs, **more)
        return
    exact = [n for n, (types, domains) in enumerate(given_organs) if kind in types and domain in domains]
    by_type = [n for n, (types, domains) in enumerate(given_organs) if kind in types and not domains]
    expected = next((f"o{n}" for n in [*exact, *by_type]), "o0" if default else None)
    found = router(*organs, **more)
    if expected is None:
        with pytest.raises(NoOrgan):
            found.route(kind, domain)
    else:
        assert found.route(kind, domain).config.id == expected


@pytest.mark.anyio
async def test_tasks_of_one_type_run_where_their_domain_says() -> None:
    manager = organism(served("all", "t"), served("some", "t", "a"), default_organ="all")
    for domain, expected in [("a", "some"), ("b", "all"), (None, "all")]:
        outcome = await manager.handle_incoming_task({"type": "t", "domain": domain})
        assert (outcome["success"], outcome["organ_id"]) == (True, expected)
    assert (await manager.handle_incoming_task({"type": "nobody's"}))["organ_id"] == "all"
