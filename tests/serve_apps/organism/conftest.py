from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serve_apps.organism import misbehaviour


@pytest.fixture(autouse=True)
def fresh_misbehaviour() -> Iterator[None]:
    misbehaviour.reset()
    yield
    misbehaviour.RELEASE.set()
