"""How the system is started: the `organism` command and the embedded local stack."""
