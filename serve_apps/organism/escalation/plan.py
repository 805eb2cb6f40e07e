"""Plans: the steps that a planner returns for an escalated task, and their validation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from organism_flows.blocks.validation import first_error
from organism_flows.serve_apps.organism.config import Name


class InvalidPlan(Exception):
    """Error: a planner did not return a valid plan. The message names the field."""

    permanent = True


class PlannedStep(BaseModel):
    """One step of a plan, which is a task for an organ."""

    model_config = ConfigDict(extra="forbid")

    organ: Name | None = Field(default=None, description="Id of the organ that runs it; unset: by its type.")
    type: Name | None = Field(default=None, description="Its type; unset: that of the escalated task.")
    params: dict[str, Any] = Field(default_factory=dict, description="What its handler gets.")

    @model_validator(mode="after")
    def _somewhere(self) -> PlannedStep:
        if self.organ is None and self.type is None:
            raise ValueError("a step needs an organ or a type")
        return self


class StepPlan(BaseModel):
    """A plan: the steps for an escalated task."""

    model_config = ConfigDict(extra="forbid")

    steps: list[PlannedStep] = Field(min_length=1, description="What to do.")
    parallel: bool = Field(
        default=False, description="All at once; else one after the other, to the first failure."
    )
    pass_results: bool = Field(
        default=False,
        description="Of steps in order: add the results of those before to the params, as `results`.",
    )

    @model_validator(mode="after")
    def _passes_in_order(self) -> StepPlan:
        if self.parallel and self.pass_results:
            raise ValueError("steps in parallel have no results of those before to be passed")
        return self


def parse_plan(returned: Any, max_steps: int) -> StepPlan:
    """Return the plan that a planner returned, validated.

    Raises:
        InvalidPlan: It is not a plan, or has more than ``max_steps`` steps.
    """
    try:
        plan = StepPlan.model_validate(returned)
    except ValidationError as error:
        raise InvalidPlan(first_error(error, with_value=True)) from None
    if len(plan.steps) > max_steps:
        raise InvalidPlan(f"steps: {len(plan.steps)} of them, more than max_steps ({max_steps})")
    return plan
