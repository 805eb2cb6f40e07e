"""deployments/prefect.yaml: what it names is there, and every parameter has help in its form."""

from __future__ import annotations

from typing import Any

from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.flows import load_flow_from_entrypoint
from ruamel.yaml import YAML

from organism_flows.flows.prefect_support.deployments import prefect_yaml
from tests.support.flows.deployments import OURS


def test_prefect_yaml_names_what_is_there() -> None:
    raw = YAML(typ="safe").load(prefect_yaml().read_text())
    model = PrefectYamlModel.model_validate(raw)
    known = set(type(model.deployments[0]).model_fields)
    for deployment in raw["deployments"]:
        assert set(deployment) <= known, "Prefect ignores what it does not know"
        flow: Flow[..., Any] = load_flow_from_entrypoint(deployment["entrypoint"])
        assert f"{flow.name}/{deployment['name']}" in OURS
        for name in deployment.get("parameters", {}):
            assert name in flow.parameters.properties
        for name, parameter in flow.parameters.properties.items():
            assert parameter.get("description"), f"{flow.name}: {name} has no help in its form"
