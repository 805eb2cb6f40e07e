"""The commands of `organism`, by what they are about; `deployments.cli.main.COMMANDS` lists them."""
