"""Messages about limits, closures and weights between the gateway and its clients."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from organism_flows.blocks.client.messages import JSON
from organism_flows.blocks.queue.models.fields import Text
from organism_flows.blocks.queue.models.limits import (
    Closing,
    Closure,
    ClosureName,
    Key,
    Limit,
    LimitUse,
    Weight,
)

_PERIOD: dict[str, Any] = {"period_s": {"type": "number"}}
_NO_BURST: dict[str, Any] = {"burst": {"type": "null"}}
_FITTING: dict[str, Any] = {
    "allOf": [
        {
            "anyOf": [
                {"properties": {"kind": {"const": "running"}, "period_s": {"type": "null"}, **_NO_BURST}},
                {"required": ["period_s"], "properties": {"kind": {"const": "rate"}, **_PERIOD}},
                {"required": ["period_s"], "properties": {"kind": {"const": "cost"}, **_PERIOD, **_NO_BURST}},
            ]
        },
        {
            "anyOf": [
                {"properties": {"exceptions": {"maxProperties": 0}}},
                {"required": ["by_key"], "properties": {"by_key": {"const": True}}},
            ]
        },
    ]
}
"""What a JSON schema needs to know of fields that only some limits have."""


class LimitRequest(Limit):
    """A limit to set. A value that is left out has its default."""

    model_config = ConfigDict(**JSON, json_schema_extra=_FITTING)


class RemoveLimitRequest(BaseModel):
    """A limit to remove."""

    model_config = JSON

    name: Text = Field(min_length=1, max_length=200)


class CloseRequest(Closing):
    """A key or limit to close until a moment."""

    model_config = JSON


class OpenRequest(ClosureName):
    """A key or limit to open before its time."""

    model_config = JSON


class OpenResult(BaseModel):
    """The effect of opening a key or limit."""

    opened: bool = Field(description="False: it was not closed.")


class WeightRequest(BaseModel):
    """How many tasks a key gets when others get one."""

    model_config = JSON

    key: Key
    weight: Weight = Field(description="1 is that of every other key.")


class LimitList(BaseModel):
    """All limits, what is closed, and the weights of keys."""

    limits: list[LimitUse]
    closures: list[Closure] = Field(
        default=[],
        description="What handlers or operators have closed, those that open last first; 1000 at most.",
    )
    weights: dict[str, int] = Field(
        default={}, description="Weights of keys where they share. All others have weight 1."
    )


class LimitRemoved(BaseModel):
    """The effect of removing a limit."""

    removed: bool = Field(description="False: there was none of this name.")
