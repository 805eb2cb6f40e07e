"""The commands of `organism`, one module each; `deployments.cli.main.COMMANDS` lists them."""
