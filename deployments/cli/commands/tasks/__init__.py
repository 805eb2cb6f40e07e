"""The commands for tasks: `submit`, `tasks`, `redrive`."""
