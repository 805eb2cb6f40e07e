"""What Prefect runs.

Importing this package points Prefect and Ray at the embedded stack if one is up and the environment names
no other, because both read their settings when they are imported: in a notebook,
`from flows.dispatch import dispatch` is all it takes.
"""

from blocks.settings import load_settings
from blocks.stack import join_stack

join_stack(load_settings().home)
