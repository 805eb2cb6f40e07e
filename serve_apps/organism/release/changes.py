"""The changes that deploying an application makes to the deployed one, and their reasons."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel

from organism_flows.serve_apps.organism.release.handler_code import TRUNCATED
from organism_flows.serve_apps.organism.release.serve_config import MANAGER, organ_deployment

REPLACING = {
    "ray_actor_options",
    "placement_group_bundles",
    "placement_group_strategy",
    "placement_group_bundle_label_selector",
    "placement_group_fallback_strategy",
    "max_replicas_per_node",
    "gang_scheduling_config",
    "deployment_actors",
}
"""Options of a deployment: Serve replaces its replicas if one differs (2.60, `DeploymentVersion`)."""
REPLACING_ALL = ("import_path", "runtime_env", "args", "autoscaling_policy")
"""Options of an application that make its code version: Serve replaces every replica if one differs."""
NOT_DEPLOYED = {"name", "route_prefix", "deployments", *REPLACING_ALL}
SHOWN = 3
"""Most reasons of one kind that are named. Of the others only the number is."""


class Effect(StrEnum):
    """What happens to the replicas of a deployment."""

    STARTED = "started"
    IN_PLACE = "changed in place"
    SCALED_DOWN = "scaled down"
    REPLACED = "replaced"
    REMOVED = "removed"


TAKEN_DOWN = {Effect.SCALED_DOWN, Effect.REPLACED, Effect.REMOVED}
"""Effects that end replicas."""


class Change(BaseModel):
    """What happens to one deployment."""

    deployment: str
    organs: list[str]
    """Ids of the organs whose tasks are on its replicas now."""
    effect: Effect
    why: list[str]


def compare(deployed: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> list[Change]:
    """Return what deploying ``wanted`` changes, by deployment; empty if it changes nothing.

    Args:
        deployed: The application as it was deployed last, in Serve's config schema; `None` if there is none.
        wanted: The application to deploy.
    """
    before = _by_name(deployed or {})
    after = _by_name(wanted)
    if deployed is None:
        return [_change(name, {}, Effect.STARTED, ["nothing is deployed"]) for name in after]
    everywhere = _reasons_for_all(deployed, wanted)
    in_place = [
        f"{name} changed"
        for name in sorted({*deployed, *wanted} - NOT_DEPLOYED)
        if deployed.get(name) != wanted.get(name)
    ]
    changes = []
    for name in [*after, *(name for name in before if name not in after)]:
        if name not in before:
            changes.append(_change(name, before, Effect.STARTED, ["it is new"]))
        elif name not in after:
            changes.append(_change(name, before, Effect.REMOVED, ["its organ is no longer one apart"]))
        else:
            changes += _of_deployment(name, before, after[name], everywhere, in_place)
    return _counted_once(changes)


def _counted_once(changes: list[Change]) -> list[Change]:
    """Remove from the manager's change the organs apart whose own replicas end: their tasks are there."""
    apart = {
        organ
        for one in changes
        if one.deployment != MANAGER and one.effect in TAKEN_DOWN
        for organ in one.organs
    }
    return [
        one.model_copy(update={"organs": [organ for organ in one.organs if organ not in apart]})
        if one.deployment == MANAGER
        else one
        for one in changes
    ]


def notes(wanted: Mapping[str, Any]) -> list[str]:
    """Return what the comparison with ``wanted`` cannot know."""
    if TRUNCATED in _files(wanted):
        return ["there is more handlers' code than is compared: changes in the rest go unnoticed"]
    return []


def _of_deployment(
    name: str,
    before: dict[str, dict[str, Any]],
    new: dict[str, Any],
    everywhere: list[str],
    in_place: list[str],
) -> list[Change]:
    old = before[name]
    differing = sorted(key for key in {*old, *new} - {"name"} if old.get(key) != new.get(key))
    replacing = [*everywhere, *(_difference(key, old, new) for key in differing if key in REPLACING)]
    if replacing:
        return [_change(name, before, Effect.REPLACED, replacing)]
    why = [*in_place]
    effect = Effect.IN_PLACE
    for key in differing:
        if key == "user_config":
            why += _configuration(old.get(key) or {}, new.get(key) or {})
        else:
            why.append(_difference(key, old, new))
        if key == "num_replicas" and _number(new.get(key)) < _number(old.get(key)):
            effect = Effect.SCALED_DOWN
    return [_change(name, before, effect, why)] if why else []


def _reasons_for_all(deployed: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return why every replica is replaced; empty if that is not so."""
    reasons = []
    for name in REPLACING_ALL:
        old, new = deployed.get(name) or {}, wanted.get(name) or {}
        if name in ("args", "runtime_env"):
            for key in sorted({*old, *new}):
                if old.get(key) != new.get(key):
                    reasons += _argument(key, deployed, old.get(key), new.get(key))
        elif old != new:
            reasons.append(f"{name} changed")
    return reasons


def _argument(key: str, deployed: Mapping[str, Any], old: Any, new: Any) -> list[str]:
    match key:
        case "code":
            return _code(old, new)
        case "organs":
            came = sorted(set(new or []) - set(old or []))
            went = sorted(set(old or []) - set(new or []))
            return [
                *(f"organ {one} is to be a deployment of its own" for one in came),
                *(f"organ {one} has no deployment of its own any more" for one in went),
            ]
        case "valve":
            return ["the drift valve is new" if new else "there is no drift valve any more"]
        case "retry":
            return ["Serve had given it up"]
        case _:
            return [f"{key} changed"]


def _code(old: Any, new: Any) -> list[str]:
    if not (isinstance(old or {}, dict) and isinstance(new or {}, dict)):
        return ["the handlers' code changed"]
    before, after = old or {}, new or {}
    changed = [f"{name} changed" for name in after if name in before and before[name] != after[name]]
    came = [f"{name} is new" for name in after if name not in before]
    went = [f"{name} is not imported any more" for name in before if name not in after]
    return _some([*changed, *came, *went], "files of handlers' code")


def _configuration(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what differs between two configurations of the organism."""
    before = {organ["id"]: organ for organ in old.get("organs", [])}
    after = {organ["id"]: organ for organ in new.get("organs", [])}
    found = [f"organ {one} is new" for one in after if one not in before]
    found += [f"organ {one} is gone" for one in before if one not in after]
    for one in after.keys() & before.keys():
        fields = sorted(
            key for key in {*before[one], *after[one]} if before[one].get(key) != after[one].get(key)
        )
        if fields:
            found.append(f"{', '.join(fields)} of organ {one}")
    rest = sorted(key for key in {*old, *new} - {"organs"} if old.get(key) != new.get(key))
    return [*_some(sorted(found), "organs"), *rest] or ["the order of its organs"]


def _difference(key: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    before, after = old.get(key), new.get(key)
    if isinstance(before, dict) and isinstance(after, dict):
        parts = [
            f"{part} {_shown(before.get(part))} → {_shown(after.get(part))}"
            for part in sorted({*before, *after})
            if before.get(part) != after.get(part)
        ]
        return ", ".join(parts)
    if isinstance(before, dict) or isinstance(after, dict):
        return f"{key} changed"
    return f"{key} {_shown(before)} → {_shown(after)}"


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "unset" if value is None else str(value)


def _some(reasons: list[str], what: str) -> list[str]:
    more = len(reasons) - SHOWN
    return reasons if more <= 0 else [*reasons[:SHOWN], f"{more} more {what}"]


def _change(name: str, before: dict[str, dict[str, Any]], effect: Effect, why: list[str]) -> Change:
    return Change(deployment=name, organs=_organs(name, before), effect=effect, why=why)


def _organs(name: str, before: dict[str, dict[str, Any]]) -> list[str]:
    """Return the ids of the organs whose tasks pass through the replicas of the deployment ``name``."""
    config = (before.get(name) or {}).get("user_config") or {}
    # Tasks of organs apart pass through the manager, and end when its replica ends.
    return [organ["id"] for organ in config.get("organs", [])]


def _files(app: Mapping[str, Any]) -> dict[str, str]:
    code = (app.get("args") or {}).get("code")
    return code if isinstance(code, dict) else {}


def _by_name(app: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in app.get("deployments", [])}


def _number(replicas: Any) -> float:
    return replicas if isinstance(replicas, (int, float)) else 1


def label(change: Change) -> str:
    """Return the name of the deployment of ``change`` for readers: the organism, or an organ."""
    if change.deployment == MANAGER:
        return "organism"
    prefix = organ_deployment("")
    return f"organ {change.deployment.removeprefix(prefix)}"
