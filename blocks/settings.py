"""Every setting of Organism Flows, in one typed place.

Settings are environment variables with the prefix ``ORGANISM_``. ``RAY_ADDRESS`` and ``PREFECT_API_URL`` keep
their own names. Names of the older system still work, with a deprecation warning.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.validation import first_error

OLDER_NAMES = {
    "PG_DSN": "ORGANISM_DSN",
    "SEEDCORE_PG_DSN": "ORGANISM_DSN",
    "RAY_NAMESPACE": "ORGANISM_RAY_NAMESPACE",
    "SEEDCORE_NS": "ORGANISM_RAY_NAMESPACE",
    "LEASE_SECONDS": "ORGANISM_LEASE_SECONDS",
    "WATCHDOG_INTERVAL": "ORGANISM_WATCHDOG_INTERVAL",
    "CLAIM_BATCH_SIZE": "ORGANISM_BATCH_SIZE",
}


def default_home() -> Path:
    """Return the folder in which the embedded stack keeps its data.

    Root's own home is closed to the unprivileged user that Postgres must run as. A stack of root therefore
    keeps its data where services do.
    """
    return Path("/var/lib/organism") if os.geteuid() == 0 else Path.home() / ".organism"


class Settings(BaseSettings):
    """The settings in effect; `load_settings` builds them."""

    model_config = SettingsConfigDict(env_prefix="ORGANISM_", populate_by_name=True, env_ignore_empty=True)

    home: Path = Field(
        default_factory=default_home, description="Folder of the embedded stack: data, logs, state file."
    )
    dsn: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("ORGANISM_DSN", "PG_DSN", "SEEDCORE_PG_DSN"),
        description="Postgres connection URL of the tasks table; unset means the embedded Postgres.",
    )
    direct_dsn: SecretStr | None = Field(
        default=None,
        description="Where ORGANISM_DSN leads through a pooler, such as PgBouncer: the URL of Postgres "
        "itself, for LISTEN and migrations. Unset: ORGANISM_DSN, through which lanes then poll.",
    )
    ray_namespace: str = Field(
        default="organism",
        validation_alias=AliasChoices("ORGANISM_RAY_NAMESPACE", "RAY_NAMESPACE", "SEEDCORE_NS"),
        description="Ray namespace of drivers and lanes.",
    )
    lease_seconds: float = Field(
        default=15.0,
        gt=0.5,
        le=3600,
        validation_alias=AliasChoices("ORGANISM_LEASE_SECONDS", "LEASE_SECONDS"),
        description="A lane silent for this long loses its tasks.",
    )
    watchdog_interval: float = Field(
        default=30.0,
        ge=1,
        le=3600,
        validation_alias=AliasChoices("ORGANISM_WATCHDOG_INTERVAL", "WATCHDOG_INTERVAL"),
        description="Seconds between two checks of the watchdog.",
    )
    batch_size: int = Field(
        default=1000,
        ge=1,
        le=5000,
        validation_alias=AliasChoices("ORGANISM_BATCH_SIZE", "CLAIM_BATCH_SIZE"),
        description="Most tasks one handle call carries.",
    )
    config: Path | None = Field(
        default=None, description="YAML file of the organism's configuration; unset means the demo organism."
    )
    replicas: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="Replicas of the organism that `organism up` starts; with two or more, short tasks go on "
        "while one is replaced.",
    )
    http_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of the /organism routes; unset: 8000, or a free one."
    )
    prefect_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of the local Prefect server; unset: 4200, or a free one.",
    )
    dashboard_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of the Ray dashboard; unset: 8265, or a free one."
    )

    worker: bool = Field(
        default=True,
        description="Whether `organism up` starts a Prefect worker, for schedules and the UI.",
    )

    alerts: str | None = Field(
        default=None,
        pattern=r"^[^/\s]+/[^/\s]+$",
        description="Notification block that alerts go to, `slack-webhook/ops`; unset: bootstrap makes none.",
    )
    alert_dead_letters: int = Field(
        default=1000, ge=0, description="More dead letters than this raise an alert."
    )
    alert_oldest_ready: float = Field(
        default=300.0, gt=0, description="A task that is ready for longer (seconds) raises an alert."
    )

    alert_interrupted: int = Field(
        default=0,
        ge=0,
        description="More unfinished tasks that were interrupted more than twice raise an alert.",
    )

    url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Base of the organism's HTTP routes, such as http://serve.example:8000/organism; unset: "
        "the embedded stack's.",
    )
    token: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Token that the organism's HTTP routes and the gateway ask for; unset: that of the file "
        "`token` in ORGANISM_HOME, which `organism up` and the gateway make on first use.",
    )
    hosts: str = Field(
        default="",
        description="Names, separated by commas, by which requests may address the organism's routes and the "
        "gateway (`Host`). Unset: loopback's where they arrive over loopback, else any.",
    )
    gateway: bool = Field(default=True, description="Whether `organism up` starts the gateway.")
    gateway_url: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Where clients find the gateway; unset: that of the stack in ORGANISM_HOME.",
    )
    gateway_calls: int = Field(
        default=64,
        ge=1,
        le=10_000,
        description="Most tasks at once that the gateway has the organism run past the queue.",
    )
    gateway_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address the gateway listens on; anything but loopback needs ORGANISM_GATEWAY_TOKENS or "
        "ORGANISM_TOKEN.",
    )
    gateway_port: int | None = Field(
        default=None, ge=1, le=65535, description="Port of the gateway; unset: 8080, or a free neighbour."
    )
    gateway_tokens: Path | None = Field(
        default=None,
        description="File of the tokens the gateway takes besides ORGANISM_TOKEN, one `scope:sha256hex` a "
        "line.",
    )
    link_key: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Key that signs the links by which people answer tasks; unset: one derived from the "
        "token in effect. Another key makes all links invalid.",
    )
    gateway_open: bool = Field(
        default=False,
        description="Ask for no token, and answer whoever is on this machine, its other users included.",
    )
    gateway_proxies: str | None = Field(
        default=None,
        description="Addresses of reverse proxies, separated by commas, whose X-Forwarded-For is believed; "
        "unset: none.",
    )
    gateway_connections: int = Field(
        default=2000,
        ge=10,
        le=100_000,
        description="Most connections at once; the oldest without a request makes room for a new one.",
    )
    gateway_waits: int = Field(
        default=1000,
        ge=1,
        le=100_000,
        description="Most requests of one token at once that wait for tasks or watch them.",
    )
    gateway_exports: int = Field(
        default=2,
        ge=1,
        le=100,
        description="Most exports of one token at once; all together, twice as many.",
    )
    gateway_rate: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Most requests a second of one token, or without tokens of one address; unset: no limit.",
    )
    gateway_body_limit: int = Field(
        default=16_000_000, ge=1000, le=1_000_000_000, description="Longest body the gateway reads, in bytes."
    )

    @field_validator("home", "config", "gateway_tokens")
    @classmethod
    def _whole_path(cls, path: Path | None) -> Path | None:
        # The processes of the stack have other working folders than the command that names the file.
        return None if path is None else path.expanduser().absolute()


def load_settings() -> Settings:
    """Return the settings from the environment as it is now.

    Raises:
        ConfigurationError: A value is not acceptable. The message names the variable.
    """
    for older, name in OLDER_NAMES.items():
        if os.environ.get(older) and not os.environ.get(name):
            warnings.warn(f"{older} is deprecated: set {name} instead", FutureWarning, stacklevel=2)
    try:
        return Settings()
    except ValidationError as error:
        variable = _variable(str(error.errors(include_url=False)[0]["loc"][0]))
        named = f"{variable}={os.environ.get(variable, '')!r}"
        raise ConfigurationError(
            first_error(error, name=lambda _: named), f"correct or unset {variable}"
        ) from None


def _variable(place: str) -> str:
    """Return the environment variable that set a field, under its older name if that is in use."""
    variable = place if place.isupper() else f"ORGANISM_{place.upper()}"
    if variable not in os.environ:
        olders = (older for older, name in OLDER_NAMES.items() if name == variable)
        return next((older for older in olders if older in os.environ), variable)
    return variable
