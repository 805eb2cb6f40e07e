"""Deployment: what is sent to Serve, and which line of its answers reaches the reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve.schema import ServeDeploySchema

from organism_flows.blocks.errors import ConfigurationError, OrganismUnavailable
from organism_flows.serve_apps.organism.config import load_config, parse_config
from organism_flows.serve_apps.organism.release import serve_api as deploy_module
from organism_flows.serve_apps.organism.release.serve_api import deploy, replace, wait_until_running
from organism_flows.serve_apps.organism.release.serve_config import serve_config
from tests.support.organism.helpers import organ

pytestmark = pytest.mark.anyio

TRACE = """A replica failed to start with exception. Retrying 1 more time(s). Error:
  File "serve_apps/organism/manager.py", line 87, in reconfigure
blocks.errors.ConfigurationError: organ 'a': handler 'x.y:z' cannot be used: no module → correct the path
"""


class Dashboard:
    """Answers in turn what `wait_until_running` asks; the last answer stays."""

    def __init__(self, *answers: dict[str, Any], health: dict[str, Any] | None = None) -> None:
        self.answers = list(answers)
        self.health = health or {"status": "healthy"}
        self.put: list[dict[str, Any]] = []
        self.headers: list[str | None] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.headers.append(request.headers.get("authorization"))
        if request.url.path == "/organism/health":
            return httpx.Response(200, json=self.health)
        if request.method == "PUT":
            self.put.append(json.loads(request.content))
            return httpx.Response(200)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return httpx.Response(200, json=answer)


@pytest.fixture
def serve_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    def install(answer: Any) -> None:
        original = httpx.AsyncClient
        monkeypatch.setattr(deploy_module, "POLL_S", 0)
        monkeypatch.setattr(
            httpx,
            "AsyncClient",
            lambda **options: original(**{**options, "transport": httpx.MockTransport(answer)}),
        )

    return install


def details(
    status: str,
    deployment: str = "HEALTHY",
    *,
    running: int = 2,
    message: str = "",
    handler: str = "x.y:z",
    args: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": {
            "organism": {
                "status": status,
                "message": "",
                "deployed_app_config": {"args": args or {}},
                "deployments": {
                    "OrganismManager": {
                        "status": deployment,
                        "message": message,
                        "target_num_replicas": 2,
                        "replicas": [{"state": "RUNNING"}] * running,
                        "deployment_config": {"user_config": {"organs": [{"handler": handler}]}},
                    }
                },
            }
        },
    }


RUNNING = details("RUNNING")


def test_the_configuration_is_what_serve_expects(tmp_path: Path) -> None:
    wanted = serve_config(load_config(), http_host="127.0.0.1", http_port=8123, python_path=[tmp_path])
    schema = ServeDeploySchema.model_validate(wanted)
    assert schema.http_options.host == "127.0.0.1"
    app = schema.applications[0]
    assert (app.name, app.route_prefix) == ("organism", "/organism")
    deployment = wanted["applications"][0]["deployments"][0]
    assert deployment["name"] == "OrganismManager"
    assert parse_config(deployment["user_config"]).python_path == [tmp_path]
    json.dumps(wanted)


async def test_it_does_not_wait_for_the_tasks_of_the_replicas_before(serve_with: Any) -> None:
    def replaced(*starts: float) -> dict[str, Any]:
        found = details("DEPLOYING", "UPDATING")
        app = found["applications"]["organism"]
        app["last_deployed_time_s"] = 100.0
        app["deployments"]["OrganismManager"]["replicas"] = [
            {"state": "STOPPING", "start_time_s": 50.0},
            *({"state": "RUNNING", "start_time_s": start} for start in starts),
        ]
        return found

    dashboard = Dashboard(replaced(60.0, 60.0), replaced(60.0, 101.0), replaced(101.0, 102.0))
    serve_with(dashboard)
    said: list[str] = []
    await wait_until_running("http://127.0.0.1:1", "secret", 5, said.append)
    assert len(dashboard.headers) == 5, "the third answer is the first in which all are new"


async def test_it_waits_for_every_replica(serve_with: Any) -> None:
    dashboard = Dashboard(
        {"applications": {}},
        details("DEPLOYING", "UPDATING", running=1),
        details("RUNNING", "UPDATING"),
        details("RUNNING", running=1),
        RUNNING,
    )
    serve_with(dashboard)
    said: list[str] = []
    await wait_until_running("http://127.0.0.1:1", "secret", 5, said.append)
    assert said[0] == "waiting for Serve"
    assert said[-1] == "2 of 2 replicas running"
    assert set(dashboard.headers[:-2]) == {"Bearer secret"}
    assert set(dashboard.headers[-2:]).isdisjoint({"Bearer secret"}), (
        "Ray's token is no business of the routes"
    )


async def test_a_wrong_handler_is_told_in_one_line_before_serve_gives_up(serve_with: Any) -> None:
    serve_with(Dashboard(details("DEPLOYING", "UPDATING"), details("DEPLOYING", "UPDATING", message=TRACE)))
    with pytest.raises(ConfigurationError) as caught:
        await wait_until_running("http://127.0.0.1:1", None, 5)
    assert caught.value.what == "organ 'a': handler 'x.y:z' cannot be used: no module"
    assert caught.value.next_step == "correct the path"


async def test_the_failure_of_the_deployment_before_is_not_ours(serve_with: Any) -> None:
    stale = details("DEPLOYING", "UPDATING", message=TRACE, handler="new:handler")
    serve_with(Dashboard(details("DEPLOYING", "UPDATING"), stale, RUNNING))
    await wait_until_running("http://127.0.0.1:1", None, 5)
    same = details("DEPLOYING", "UPDATING", message=TRACE)
    serve_with(Dashboard(same, same, RUNNING))
    await wait_until_running("http://127.0.0.1:1", None, 5)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Traceback (most recent call last):\n  File x\nValueError: no GPU\n", "ValueError: no GPU"),
        ("The deployment failed to start.\nNo resources.", "The deployment failed to start."),
        ("", "no message"),
    ],
)
async def test_another_failure_is_one_line_too(serve_with: Any, message: str, line: str) -> None:
    serve_with(Dashboard(details("DEPLOY_FAILED", "DEPLOY_FAILED", message=message)))
    with pytest.raises(OrganismUnavailable) as caught:
        await wait_until_running("http://127.0.0.1:1", None, 5)
    assert line in caught.value.what


async def test_replicas_that_refused_the_configuration_are_noticed(serve_with: Any) -> None:
    health = {"status": "degraded", "refused_configuration": "organ 'a' is wrong → correct it"}
    serve_with(Dashboard(RUNNING, health=health))
    with pytest.raises(ConfigurationError, match=r"organ 'a' is wrong"):
        await wait_until_running("http://127.0.0.1:1", None, 5)


async def test_what_ran_before_is_deployed_again_when_the_new_does_not_run(serve_with: Any) -> None:
    failing = details("DEPLOYING", "UPDATING", message=TRACE)
    running = details("RUNNING", args={"code": "before"})
    dashboard = Dashboard(running, details("DEPLOYING", "UPDATING"), failing, failing, failing, running)
    serve_with(dashboard)
    said: list[str] = []
    with pytest.raises(ConfigurationError, match=r"cannot be used: no module .*before stays in effect"):
        await replace("http://127.0.0.1:1", None, serve_config(load_config()), 5, said.append)
    assert [put["applications"][0]["args"].get("code") for put in dashboard.put] == [None, "before"]
    assert "going back to the configuration before" in said


async def test_without_anything_before_there_is_nothing_to_go_back_to(serve_with: Any) -> None:
    failing = details("DEPLOYING", "UPDATING", message=TRACE)
    dashboard = Dashboard({"applications": {}}, {"applications": {}}, failing)
    serve_with(dashboard)
    with pytest.raises(ConfigurationError, match=r"no module → correct the path"):
        await replace("http://127.0.0.1:1", None, serve_config(load_config()), 5)
    assert len(dashboard.put) == 1


async def test_waiting_ends(serve_with: Any) -> None:
    serve_with(Dashboard(details("DEPLOYING", "UPDATING", running=1)))
    with pytest.raises(OrganismUnavailable, match=r"not ready after 0\.01 s: 1 of 2"):
        await wait_until_running("http://127.0.0.1:1", None, 0.01)


@pytest.mark.parametrize(
    ("present", "retried"),
    [
        ({"applications": {}}, False),
        (RUNNING, False),
        (details("DEPLOY_FAILED"), True),
        (details("RUNNING", args={"retry": "kept"}), True),
    ],
)
async def test_what_serve_has_given_up_is_tried_again(
    serve_with: Any, present: dict[str, Any], retried: bool
) -> None:
    dashboard = Dashboard(present)
    serve_with(dashboard)
    await deploy("http://127.0.0.1:1", "t", serve_config(load_config()))
    assert ("retry" in dashboard.put[0]["applications"][0]["args"]) is retried
    if present is not RUNNING and present["applications"].get("organism", {}).get("status") == "RUNNING":
        assert dashboard.put[0]["applications"][0]["args"]["retry"] == "kept"


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (403, ConfigurationError, "refuses the authentication token"),
        (400, ConfigurationError, "Serve refuses the configuration: ValueError: port"),
        (503, OrganismUnavailable, "answers 503"),
    ],
)
async def test_refusals_of_the_dashboard(
    serve_with: Any, status: int, error: type[Exception], words: str
) -> None:
    serve_with(lambda _: httpx.Response(status, text="Traceback\nValueError: port"))
    with pytest.raises(error, match=words):
        await deploy("http://127.0.0.1:1", "t", serve_config(load_config()))


def test_replicas_may_go_on_for_as_long_as_their_organs_say() -> None:
    organs = [
        organ("short", "x:y"),
        organ("long", "x:y", drain_s=900),
        organ("apart", "x:y", drain_s=3600, deployment={}),
    ]
    manager, apart = serve_config(parse_config({"organs": organs}))["applications"][0]["deployments"]
    # Calls to an organ apart pass through the manager.
    assert manager["graceful_shutdown_timeout_s"] == 3610
    assert apart["graceful_shutdown_timeout_s"] == 3610
    of_short = serve_config(parse_config({"organs": organs[:2]}))["applications"][0]["deployments"]
    assert [one["graceful_shutdown_timeout_s"] for one in of_short] == [910]


@pytest.mark.parametrize(
    ("wanted", "deployed"),
    [
        ({"a.py": "1"}, {"a.py": "1", "b.py": "2"}),
        (None, {"a.py": "1"}),
        ({"a.py": "2"}, {"a.py": "2"}),
    ],
)
def test_code_that_is_not_used_any_more_replaces_nothing(wanted: Any, deployed: Any) -> None:
    config = {"applications": [{"name": "organism", "args": {"code": wanted}}]}
    fitted = deploy_module.fitted(config, details("RUNNING", args={"code": deployed}))
    assert fitted["applications"][0]["args"]["code"] == deployed


@pytest.mark.parametrize(
    ("wanted", "deployed"),
    [({"a.py": "2"}, {"a.py": "1"}), ({"a.py": "1", "c.py": "3"}, {"a.py": "1"}), ({"a.py": "1"}, "v1")],
)
def test_code_that_changed_is_deployed(wanted: Any, deployed: Any) -> None:
    config = {"applications": [{"name": "organism", "args": {"code": wanted}}]}
    fitted = deploy_module.fitted(config, details("RUNNING", args={"code": deployed}))
    assert fitted["applications"][0]["args"]["code"] == wanted


async def test_a_dashboard_that_does_not_answer() -> None:
    with pytest.raises(OrganismUnavailable, match="does not answer"):
        await deploy("http://127.0.0.1:9", "t", serve_config(load_config()))
