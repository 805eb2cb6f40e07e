"""The gateway: the tasks table over HTTP, for programs that know neither Prefect nor Ray.

A plain ASGI app on the queue alone: while Ray is down, tasks are accepted, watched and steered as ever.
"""
