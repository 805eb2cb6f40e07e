"""The parts of docs/reference that are made from the code: ``python -m docs.generate`` writes them.

A page has a part between ``<!-- generated NAME -->`` and ``<!-- /generated NAME -->``; the rest of it is
written by hand. `tests/integration/docs/test_reference.py` fails when a part is not what the code says.
"""
