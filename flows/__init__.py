"""What Prefect runs.

Importing this package points Prefect and Ray at the embedded stack if one is up and the environment names
no other, because both read their settings when they are imported: in a notebook,
`from organism_flows.flows.dispatch import dispatch` is all it takes.
"""

from organism_flows.blocks.settings import load_settings
from organism_flows.blocks.stack_state import join_stack

join_stack(load_settings().home)
