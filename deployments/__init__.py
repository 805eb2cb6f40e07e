"""The `organism` command and the embedded stack that it starts on this machine."""
