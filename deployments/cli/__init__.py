"""The `organism` command."""
