"""Unit tests need Python alone: no Postgres, no Prefect server, no Ray."""

from __future__ import annotations

import pytest

SERVERS = {"databases", "own_prefect", "stack"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith("tests/unit/"):
            needed = SERVERS.intersection(getattr(item, "fixturenames", ()))
            if needed or item.get_closest_marker("stack"):
                raise pytest.UsageError(f"{item.nodeid} needs a server: move it to tests/integration")
