"""The commands of `organism`, one module each; `deployments.cli.COMMANDS` lists them."""
