"""The Prefect flows and the code that they run.

Importing this package points Prefect and Ray at the embedded stack, if one is up and the environment names no
other server or cluster. It does so on import because both read their settings when they are imported. In a
notebook, `from organism_flows.flows.dispatch import dispatch` is enough.
"""

from organism_flows.blocks.process_environment import join_stack
from organism_flows.blocks.settings import load_settings

join_stack(load_settings().home)
