"""`organism env`."""

from __future__ import annotations

from organism_flows.deployments.cli.output import AsJson, show


def env(*, as_json: AsJson = False) -> None:
    """Print the variables with which other programs find this stack's Prefect and Ray, as shell commands.

    Run `eval "$(organism env)"`, and then for example `prefect deployment run dispatch/organism`. The secret
    is not printed: the shell reads it from its file.
    """
    import shlex

    from organism_flows.blocks.local_stack.stack_state import environment_of, running_stack
    from organism_flows.blocks.settings import load_settings

    stack = running_stack(load_settings().home)
    variables = environment_of(stack)
    secret = variables.pop("PREFECT_API_AUTH_STRING", None)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    if secret:
        lines.append(f'export PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(stack.prefect_secret_path))})"')
    result = {"variables": variables, "prefect_secret_path": stack.prefect_secret_path}
    show(result, as_json, "\n".join(lines))
