"""The configuration of an organism: its organs, and which handler serves which task type."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.queue.models.limits import Key, Limit, Weight
from organism_flows.blocks.queue.models.operations import TypePolicy
from organism_flows.blocks.validation import first_error

Name: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\s\x00-\x1f]+$")
]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=604_800, allow_inf_nan=False)]


def _one_colon(path: str) -> str:
    module, _, attribute = path.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise ValueError(f"{path!r} is not of the form package.module:function")
    return path


def _not_over_plain_http(uri: str) -> str:
    if uri.startswith("http://"):
        # Imported here because it imports Starlette, which most configurations do not need.
        from organism_flows.serve_apps.http_access import is_loopback

        if not is_loopback(urlsplit(uri).hostname or ""):
            raise ValueError(
                "over plain http whoever is on the way can replace the code, and Ray checks no digest; "
                "use https, s3, gs, azure, or a file:// or local:// that is on every node"
            )
    return uri


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(Section):
    """Bounds and pace of the number of replicas of an organ's own deployment."""

    min_replicas: int = Field(
        default=1,
        ge=0,
        le=10_000,
        description="Fewest; 0: none while there is nothing to do; the first task waits for one to start.",
    )
    max_replicas: int = Field(ge=1, le=10_000, description="Most.")
    utilization: float = Field(
        default=0.7,
        ge=0.1,
        le=0.9,
        description="Share of the replicas' concurrency to keep busy: above it replicas are added, below it "
        "taken away. Lanes keep in flight what the replicas can run, so at 1 nothing would ever be added.",
    )
    upscale_delay_s: float = Field(
        default=5.0, ge=0, le=86_400, description="Seconds above it before one is added."
    )
    downscale_delay_s: float = Field(
        default=120.0, ge=0, le=86_400, description="Seconds below it before one is taken away."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Autoscaling:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}"
            )
        return self


class DeploymentConfig(Section):
    """An organ's own Serve deployment: what each replica needs, and how many replicas there are."""

    replicas: int = Field(default=1, ge=1, le=10_000, description="Number of replicas, without autoscaling.")
    autoscaling: Autoscaling | None = Field(default=None, description="Unset: always as many as replicas.")
    num_cpus: float = Field(
        default=1.0, ge=0, allow_inf_nan=False, description="CPUs set aside for a replica."
    )
    num_gpus: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="GPUs set aside for a replica."
    )
    memory_mb: int | None = Field(default=None, ge=1, description="Memory set aside for a replica, in MB.")
    resources: dict[str, float] = Field(
        default_factory=dict, description="Custom Ray resources of a replica."
    )


class OrganConfig(Section):
    """One organ: a handler, the task types it serves, and how many run at once on each replica."""

    id: Name = Field(description="Unique name; reported as organ_id with every outcome.")
    kind: Literal["cognitive", "actuator", "utility", "own"] = Field(
        default="own", description="What sort of work it does; shown in status, used for nothing else."
    )
    task_types: list[Name] = Field(min_length=1, description="Task types it serves.")
    domains: list[Name] = Field(
        default_factory=list,
        description="Only tasks of these domains, and before an organ that serves their type for all; "
        "empty: tasks of every domain.",
    )
    handler: Annotated[str, AfterValidator(_one_colon)] = Field(
        description="Importable callable, written package.module:function; a class is instantiated once."
    )
    version: Name | None = Field(
        default=None,
        description="Version of the handler, for the history of tasks; unset: a digest of its code, or the "
        "version of the installed package it is in.",
    )
    timeout_s: Seconds | None = Field(
        default=None, description="Seconds one task may take; unset: the organism's default_timeout_s."
    )
    concurrency: int = Field(
        default=8, ge=1, le=10_000, description="Most handler calls at once on one replica."
    )
    batch: bool = Field(
        default=False, description="The handler takes a list of tasks and returns a list of results."
    )
    max_batch_size: int = Field(
        default=32, ge=1, le=5000, description="Most tasks in one call of a batch handler."
    )
    processes: bool = Field(
        default=False,
        description="Run the handler in processes of its own, as many as `concurrency`: for work that "
        "computes, and for code that may crash, leak or never end.",
    )
    target_ms: float | None = Field(
        default=None,
        gt=0,
        le=3_600_000,
        description="A batch holds as many tasks as take the handler about this long; unset: max_batch_size.",
    )
    max_attempts: int | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="Attempts of a task before it is a dead letter, where neither the task nor the queue's "
        "policy of its type says; unset: the queue's default.",
    )
    backoff_base_s: Seconds | None = Field(
        default=None, description="Wait before the second attempt, doubled for each further one; likewise."
    )
    backoff_cap_s: Seconds | None = Field(
        default=None, description="Longest wait between attempts; likewise."
    )
    drain_s: Annotated[float, Field(ge=0, le=604_800, allow_inf_nan=False)] = Field(
        default=30.0,
        description="Seconds that tasks may still run on a replica that is replaced or taken away; then they "
        "are handed back, uncharged, and run again elsewhere.",
    )
    suspects: Literal["process", "replica"] | None = Field(
        default=None,
        description="Where a task runs that a replica has died with. `process`: in one of its own, beside "
        "others. `replica`: on a replica, but never two at once. Unset: `process`, but for "
        "an organ whose deployment has GPUs, whose memory a second process would need again.",
    )
    deployment: DeploymentConfig | None = Field(
        default=None,
        description="Run it as a Serve deployment of its own; unset: on the organism's replicas.",
    )

    @property
    def isolates(self) -> bool:
        """Return True if a suspect runs in a process of its own."""
        if self.suspects is not None:
            return self.suspects == "process"
        return not (self.deployment and self.deployment.num_gpus)

    @model_validator(mode="after")
    def _deployable(self) -> OrganConfig:
        if self.deployment and not re.fullmatch(r"[A-Za-z0-9_.-]+", self.id):
            raise ValueError(f"id {self.id!r} of an organ with a deployment may hold A-Z a-z 0-9 _ . - only")
        return self


class Cusum(Section):
    """Rule for when the drift scores of a type and domain, taken together, are too high.

    Each type and domain has a sum. It grows by what a score exceeds ``expected + slack``, and shrinks by what
    a score falls short of that. It is never below 0 (the one-sided CUSUM chart of Page, 1954).
    """

    expected: float = Field(ge=0, allow_inf_nan=False, description="Drift score of ordinary tasks.")
    slack: float = Field(
        default=0.05, ge=0, allow_inf_nan=False, description="What may come on top unnoticed."
    )
    bound: float = Field(
        default=1.0, gt=0, allow_inf_nan=False, description="While the sum is above it, tasks are escalated."
    )


class Escalation(Section):
    """Which tasks are escalated to a planner because they drift too much."""

    drift_score: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Tasks with this drift score or more are escalated; unset: none for its own score alone.",
    )
    cusum: Cusum | None = Field(default=None, description="Unset: none for the scores of those before it.")
    planner: Name | None = Field(
        default=None,
        description="Id of the organ whose handler plans their steps; unset: they run on their own organ.",
    )
    max_steps: int = Field(default=8, ge=1, le=100, description="Most steps of a plan.")

    @model_validator(mode="after")
    def _some_rule(self) -> Escalation:
        if self.drift_score is None and self.cusum is None:
            raise ValueError("needs drift_score or cusum, or it escalates nothing")
        return self


class OrganismConfig(Section):
    """The configuration of a whole organism; what Serve calls ``user_config``."""

    organs: list[OrganConfig] = Field(default_factory=list, description="Its organs.")
    include_builtin: bool = Field(
        default=True,
        description="Add the built-in organs (echo, sleep, count, health_check, get_organism_status, "
        "code.metrics), except for task types and ids given here.",
    )
    python_path: list[Path] = Field(
        default_factory=list,
        description="Folders on the machines of the replicas to import handlers from; in a file: relative.",
    )
    working_dir: Annotated[str, AfterValidator(_not_over_plain_http)] | None = Field(
        default=None,
        pattern=r"^(https?|s3|gs|azure|abfss|file|local)://.+",
        description="URI of the handlers' code, which every node fetches by itself: a zip (https, s3, gs, "
        "azure, file) or a folder that is on each (local). http only from loopback: nothing checks what "
        "arrives. New code needs a new URI. Unset: it is installed.",
    )
    result_limit_bytes: int = Field(
        default=1_000_000, ge=100, le=100_000_000, description="Longest result, in bytes of JSON text."
    )
    default_timeout_s: Seconds = Field(
        default=300.0, description="Seconds one task may take, where neither it nor its organ says so."
    )
    default_organ: Name | None = Field(
        default=None, description="Id of the organ for types that none serves; unset: such tasks fail."
    )
    escalation: Escalation | None = Field(default=None, description="The drift valve; unset: no escalation.")
    limits: list[Limit] | None = Field(
        default=None,
        description="Limits on what runs at once, begins or is spent, set at each deployment. One that is no "
        "longer here is removed; those set by hand stay. Unset: all stay as they are.",
    )
    weights: dict[Key, Weight] | None = Field(
        default=None,
        description="How many tasks a key gets when others get one, where they share; set likewise.",
    )
    policies: list[TypePolicy] | None = Field(
        default=None, description="Retries, timeouts and order of types of tasks; set likewise."
    )

    def alone(self, organ: OrganConfig) -> OrganismConfig:
        """Return the configuration of a deployment that is only ``organ`` and takes every task sent there."""
        suspects = "process" if organ.isolates else "replica"
        here = organ.model_copy(update={"deployment": None, "domains": [], "suspects": suspects})
        alone = {"organs": [here], "include_builtin": False, "default_organ": organ.id, "escalation": None}
        alone |= {"limits": None, "weights": None, "policies": None}
        return self.model_copy(update=alone)

    @property
    def declares(self) -> bool:
        """Return True if it has limits, weights or policies for the queue."""
        return not (self.limits is None and self.weights is None and self.policies is None)

    @property
    def task_types(self) -> list[str]:
        """Return every type it serves, for all domains or for some, sorted."""
        return sorted({name for organ in self.organs for name in organ.task_types})


def load_config(path: Path | None = None) -> OrganismConfig:
    """Return the configuration in a YAML file, with built-in organs; without a path, the demo organism.

    Raises:
        ConfigurationError: The file cannot be read, or one of its fields is wrong; the message names it.
    """
    if path is None:
        return parse_config(_packaged("demo.yaml"), source="the demo organism")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(
            f"organism configuration {path} cannot be read: {error}", "correct ORGANISM_CONFIG or the file"
        ) from None
    config = parse_config(_yaml(text, str(path)), source=str(path))
    folder = path.resolve().parent
    return config.model_copy(update={"python_path": [folder / entry for entry in config.python_path]})


def parse_config(raw: Any, *, source: str = "the organism's configuration") -> OrganismConfig:
    """Return a checked configuration with the built-in organs, from plain data or a configuration.

    The result says ``include_builtin: false``, so parsing it again changes nothing.

    Raises:
        ConfigurationError: A field is wrong; the message names it.
    """
    if isinstance(raw, OrganismConfig):
        raw = raw.model_dump(mode="json")
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{source} is {_kind(raw)}, not a mapping", "start it with `organs:`")
    try:
        config = OrganismConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigurationError(
            f"{source}: {first_error(error, with_value=True)}", "correct this field"
        ) from None
    _refuse_duplicates(config, source)
    if config.include_builtin:
        config = _with_builtin(config)
    if not config.organs:
        raise ConfigurationError(f"{source}: organs is empty", "give at least one organ, or include_builtin")
    named = {
        "default_organ": config.default_organ,
        "escalation.planner": config.escalation.planner if config.escalation else None,
    }
    ids = [organ.id for organ in config.organs]
    for field, name in named.items():
        if name is not None and name not in ids:
            raise ConfigurationError(
                f"{source}: {field} {name!r} is not the id of an organ", f"use one of: {', '.join(ids)}"
            )
    return config


def _refuse_duplicates(config: OrganismConfig, source: str) -> None:
    declared = Counter(("limits", limit.name) for limit in config.limits or ())
    declared += Counter(("policies", policy.type) for policy in config.policies or ())
    for (what, name), times in declared.items():
        if times > 1:
            raise ConfigurationError(f"{source}: {what} has {name!r} {times} times", "give each name once")
    ids: dict[str, int] = {}
    served: dict[tuple[str, str | None], str] = {}
    for index, organ in enumerate(config.organs):
        if organ.id in ids:
            raise ConfigurationError(
                f"{source}: organs[{index}].id {organ.id!r} is already the id of organs[{ids[organ.id]}]",
                "give every organ its own id",
            )
        ids[organ.id] = index
        for place, name in enumerate(organ.task_types):
            places: Sequence[str | None] = organ.domains or (None,)
            for domain in places:
                other = served.setdefault((name, domain), organ.id)
                if other != organ.id or organ.task_types.index(name) != place:
                    scope = f" for domain {domain!r}" if domain is not None else ""
                    raise ConfigurationError(
                        f"{source}: organs[{index}].task_types[{place}] {name!r} is already served by "
                        f"organ {other!r}{scope}",
                        "let one organ serve each task type of a domain",
                    )


def _with_builtin(config: OrganismConfig) -> OrganismConfig:
    taken_types = {name for organ in config.organs if not organ.domains for name in organ.task_types}
    taken_ids = {organ.id for organ in config.organs}
    builtin = []
    for organ in OrganismConfig.model_validate(_packaged("builtin.yaml")).organs:
        left = [name for name in organ.task_types if name not in taken_types]
        if left and organ.id not in taken_ids:
            builtin.append(organ.model_copy(update={"task_types": left}))
    return config.model_copy(update={"organs": [*config.organs, *builtin], "include_builtin": False})


def _packaged(name: str) -> Any:
    return _yaml((Path(__file__).parent / name).read_text(encoding="utf-8"), name)


def _yaml(text: str, source: str) -> Any:
    # ruamel rather than PyYAML: YAML 1.2 (`on` stays text), and a key given twice is an error.
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigurationError(f"{source}{line}: not valid YAML: {problem}", "correct the file") from None
    except ValueError as error:
        raise ConfigurationError(f"{source}: not valid YAML: {error}", "correct the file") from None


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
