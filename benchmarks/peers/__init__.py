"""One module a peer. Each is a program that prepares its tables, drains no-op tasks and prints one JSON line.

Those that run in the environment of `benchmarks/requirements.lock` import nothing of this project but
`benchmarks.peers.drained`.
"""
