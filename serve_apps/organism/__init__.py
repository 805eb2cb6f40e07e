"""The organism: routes tasks to organs, runs their handlers, reports one outcome per task.

Importing this package imports neither Ray nor Serve, so handlers may import `PermanentError` at no cost.
"""

from serve_apps.organism.errors import PermanentError

__all__ = ["PermanentError"]
