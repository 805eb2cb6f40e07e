"""The gateway: an HTTP API on the tasks table, for programs that use neither Prefect nor Ray.

A plain ASGI app that needs only the queue. While Ray is down, clients can still submit, watch and cancel
tasks.
"""
