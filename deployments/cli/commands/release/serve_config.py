"""`organism serve-config`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from organism_flows.deployments.cli.options import ConfigFile
from organism_flows.deployments.cli.output import AsJson, show

GATEWAY = {
    "name": "gateway",
    "import_path": "organism_flows.serve_apps.gateway.ingress:build",
    "route_prefix": "/gateway",
}


async def serve_config(
    *,
    config: ConfigFile = None,
    replicas: Annotated[int, Parameter(help="Replicas of the organism.")] = 2,
    gateway: Annotated[bool, Parameter(help="Add the gateway, under /gateway.")] = True,
    as_json: AsJson = False,
) -> None:
    """Print the configuration for Ray Serve, for KubeRay's `serveConfigV2` or `serve deploy`.

    The handlers must be in the image, or in the `working_dir` of the configuration.
    """
    from io import StringIO

    from ruamel.yaml import YAML

    from organism_flows.blocks.settings import load_settings
    from organism_flows.deployments.stack.organism_app import load
    from organism_flows.serve_apps.organism.config import OrganismConfig
    from organism_flows.serve_apps.organism.release.serve_config import serve_config as what_to_serve

    organism = (await load(load_settings(), config)).config
    # Each pod has an address of its own, which Kubernetes probes.
    found = what_to_serve(organism, http_host="0.0.0.0", replicas=replicas)  # noqa: S104
    found["proxy_location"] = "EveryNode"
    if gateway:
        found["applications"].append(GATEWAY)
    for deployment in found["applications"][0]["deployments"]:
        # Leave out values that the image has as well.
        own = OrganismConfig.model_validate(deployment["user_config"])
        deployment["user_config"] = own.model_dump(mode="json", exclude_defaults=True)
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.representer.ignore_aliases = lambda _: True
    yaml.dump(found, text := StringIO())
    show(found, as_json, text.getvalue().rstrip())
