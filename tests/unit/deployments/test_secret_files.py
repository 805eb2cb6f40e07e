"""The stack's secrets: who may read them, who is sent them, and whose wins."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.local_stack.stack_state import StackState, environment_of, read_secret
from organism_flows.blocks.process_environment import join_stack
from organism_flows.blocks.settings import Settings
from organism_flows.deployments.stack.child_environment import (
    base_environment,
    postgres_environment,
    prefect_database,
    prefect_environment,
)
from organism_flows.deployments.stack.postgres.server import EmbeddedPostgres
from organism_flows.deployments.stack.secret_files import own_prefect_secret, prefect_secret, ray_token
from organism_flows.deployments.stack.state import write_stack

API = "http://127.0.0.1:4200/api"
NAMES = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "RAY_ADDRESS")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in (*NAMES, "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        # Set first, so that what a test's code sets is undone too.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    yield
    monkeypatch.undo()
    if prefect := sys.modules.get("prefect.context"):
        prefect.refresh_global_settings_context()


def a_stack(home: Path) -> StackState:
    stack = StackState(
        home=home,
        stack_id="s",
        dsn="",
        ray_address="127.0.0.1:1",
        ray_token_path=ray_token(home),
        ray_dashboard_url="http://127.0.0.1:2",
        prefect_api_url=API,
        prefect_ui_url=API.removesuffix("/api"),
        prefect_secret_path=prefect_secret(home),
        organism_url="http://127.0.0.1:3/organism",
        processes={},
    )
    write_stack(stack)
    return stack


@pytest.mark.parametrize("make", [ray_token, prefect_secret])
def test_a_secret_is_made_once_and_closed_to_others(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    old = os.umask(0)
    try:
        path = make(tmp_path)
    finally:
        os.umask(old)
    secret = read_secret(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(secret.rpartition(":")[2]) == 64
    path.chmod(0o644)
    assert read_secret(make(tmp_path)) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_file_is_no_secret(tmp_path: Path) -> None:
    path = prefect_secret(tmp_path)
    path.write_text("\n")
    assert len(read_secret(prefect_secret(tmp_path))) > 64


def test_what_the_operator_says_is_kept_for_commands_that_do_not_know_it(tmp_path: Path) -> None:
    prefect_secret(tmp_path)
    assert read_secret(prefect_secret(tmp_path, "ops:short")) == "ops:short"
    assert read_secret(prefect_secret(tmp_path)) == "ops:short"


@pytest.mark.parametrize(
    ("variables", "own"),
    [
        ({}, None),
        ({"PREFECT_SERVER_API_AUTH_STRING": ""}, None),
        ({"PREFECT_SERVER_API_AUTH_STRING": "a:b"}, "a:b"),
        ({"PREFECT_API_AUTH_STRING": "a:b"}, "a:b"),
        ({"PREFECT_API_AUTH_STRING": "a:b", "PREFECT_API_URL": "http://localhost:4200/api"}, "a:b"),
        ({"PREFECT_API_AUTH_STRING": "a:b", "PREFECT_API_URL": "https://prefect.example/api"}, None),
        ({"PREFECT_API_AUTH_STRING": "a:b", "PREFECT_API_URL": "http://127.0.0.1:4201/api"}, None),
        (
            {
                "PREFECT_API_AUTH_STRING": "theirs",
                "PREFECT_API_URL": "https://prefect.example/api",
                "PREFECT_SERVER_API_AUTH_STRING": "a:b",
            },
            "a:b",
        ),
    ],
)
def test_the_operators_own_secret_is_honoured(
    variables: dict[str, str], own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert own_prefect_secret(API) == own


@pytest.mark.parametrize("secret", ["ops:schlüssel", "ops:a\nb", " ops:a", "ops:\x1b[0m"])
def test_a_secret_that_prefect_cannot_compare_is_refused_and_not_shown(
    secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", secret)
    with pytest.raises(ConfigurationError, match="PREFECT_SERVER_API_AUTH_STRING holds characters") as caught:
        own_prefect_secret(API)
    assert secret.strip() not in str(caught.value)


def test_two_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "a:b")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "a:c")
    with pytest.raises(ConfigurationError, match="differ"):
        own_prefect_secret(API)


def test_a_process_that_joins_gets_the_secret(tmp_path: Path) -> None:
    stack = a_stack(tmp_path)
    join_stack(tmp_path)
    assert os.environ["PREFECT_API_AUTH_STRING"] == read_secret(stack.prefect_secret_path)


def test_a_program_that_imports_prefect_first_joins_as_well(tmp_path: Path) -> None:
    stack = a_stack(tmp_path)
    program = """
from prefect import flow
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL

before = PREFECT_API_URL.value()
from organism_flows.flows.submit import submit

print(before, PREFECT_API_URL.value(), PREFECT_API_AUTH_STRING.value())
"""
    said = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ORGANISM_HOME": str(stack.home), "PREFECT_HOME": str(tmp_path / "p")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert said.stdout.split() == ["None", API, read_secret(stack.prefect_secret_path)], said.stderr


@pytest.mark.parametrize(
    "url", ["https://prefect.example/api", "http://127.0.0.1:4201/api", "https://127.0.0.1:4200/api"]
)
def test_another_server_is_not_sent_the_secret(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_stack(tmp_path)
    monkeypatch.setenv("PREFECT_API_URL", url)
    join_stack(tmp_path)
    assert "PREFECT_API_AUTH_STRING" not in os.environ


def test_the_servers_side_of_the_secret_is_the_servers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "somebody:else")
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "somebody:else")
    stack = a_stack(tmp_path)
    settings = Settings(home=tmp_path)
    secret = read_secret(stack.prefect_secret_path)
    server = prefect_environment(settings, stack, tmp_path)
    assert server["PREFECT_SERVER_API_AUTH_STRING"] == secret
    assert server["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200,http://localhost:4200"
    others = base_environment(settings, stack)
    assert others["PREFECT_API_AUTH_STRING"] == secret
    assert "PREFECT_SERVER_API_AUTH_STRING" not in others
    assert secret not in postgres_environment(stack).values()


def test_prefects_data_is_in_the_embedded_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = "postgresql+asyncpg://u@db.example/prefect"
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", theirs)
    stack = a_stack(tmp_path)
    assert prefect_database(stack) == theirs, "next to a database of the operator's own"
    monkeypatch.delenv("PREFECT_SERVER_DATABASE_CONNECTION_URL")
    assert prefect_database(stack) == f"sqlite+aiosqlite:///{tmp_path}/prefect/prefect.db"
    stack.dsn = EmbeddedPostgres(tmp_path, "s").dsn()
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", theirs)
    assert prefect_database(stack).startswith("postgresql+asyncpg://prefect@/prefect?host=")


def test_the_state_file_and_what_is_shown_of_it_hold_no_secret(tmp_path: Path) -> None:
    stack = a_stack(tmp_path)
    assert read_secret(stack.prefect_secret_path) in environment_of(stack).values()
    assert read_secret(stack.prefect_secret_path) not in stack.model_dump_json()
