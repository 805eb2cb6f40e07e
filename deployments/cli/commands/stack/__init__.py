"""The commands for the stack on this machine: `up`, `down`, `status`, `ui`, `env`, `demo`."""
