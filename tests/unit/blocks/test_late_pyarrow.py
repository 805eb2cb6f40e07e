"""Processes of Ray import pyarrow when something in them does, and serialize its tables as before."""

import subprocess
import sys

CODE = """
import sys
from ray._private import arrow_serialization
from organism_flows.blocks.late_pyarrow import register_arrow_late

known = []
class Context:  # of Ray, which each worker makes when it first serializes something
    def _register_cloudpickle_reducer(self, kind, reducer):
        known.append(kind.__name__)
    def _register_cloudpickle_serializer(self, kind, **_):
        known.append(kind.__name__)

register_arrow_late()
register_arrow_late()
arrow_serialization._register_custom_datasets_serializers(Context())
assert "pyarrow" not in sys.modules and not known, known
import pyarrow
once = sorted(known)
assert "Table" in once and len(once) == len(set(once)), once
arrow_serialization._register_custom_datasets_serializers(Context())
assert sorted(known) == sorted(once * 2), known
assert pyarrow.table({"a": [1, 2]}).slice(1).num_rows == 1
"""


def test_arrow_is_registered_once_it_is_imported() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert not done.returncode, done.stderr
