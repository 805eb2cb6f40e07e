"""The organism: routes tasks to organs, runs their handlers, reports one outcome per task.

Importing this package imports neither Ray nor Serve, so handlers may import `PermanentError` at no cost.
"""

from organism_flows.serve_apps.organism.handler_api.errors import PermanentError

__all__ = ["PermanentError"]
