"""The tree of errors: one base, one module, and each error survives the way between processes."""

from __future__ import annotations

import ast
import inspect
import pickle
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from organism_flows.blocks import errors
from organism_flows.blocks.client.messages import Problem, WaitResult
from organism_flows.blocks.errors import OrganismError

ROOT = Path(__file__).parents[3]
TREE = {
    name: error
    for name, error in vars(errors).items()
    if inspect.isclass(error) and issubclass(error, OrganismError)
}
OUTCOME = WaitResult(
    id=UUID(int=1),
    type="echo",
    status="failed",
    finished=True,
    error="bad",
    attempts=1,
    finished_at=None,
    elapsed_ms=None,
)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "GatewayError": (Problem(type="about:blank", title="No", status=403, detail="no", next_step="ask"),),
    "TaskEnded": (OUTCOME,),
    "AmbiguousTask": ("two tasks", "give more", ("1", "2")),
}


def test_every_error_a_user_meets_lives_in_one_module() -> None:
    elsewhere = {
        f"{path.relative_to(ROOT)}: {found.name}"
        for folder in ("blocks", "serve_apps", "flows", "deployments")
        for path in (ROOT / folder).rglob("*.py")
        if path != ROOT / "blocks/errors.py"
        for found in ast.walk(ast.parse(path.read_text()))
        if isinstance(found, ast.ClassDef)
        if any(isinstance(base, ast.Name) and base.id in TREE for base in found.bases)
    }
    assert elsewhere == {"blocks/queue/db/roles.py: PrivilegeMissing"}, "asyncpg's face may not load here"


@pytest.mark.parametrize("name", sorted(TREE))
def test_an_error_is_one_line_and_crosses_processes(name: str) -> None:
    error = TREE[name](*ARGUMENTS.get(name, ("it broke:\n17", "mend it")))
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is TREE[name]
    assert (str(back), back.what, back.next_step) == (str(error), error.what, error.next_step)
    assert "\n" not in str(error)
    assert error.what
    assert error.next_step
