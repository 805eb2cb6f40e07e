"""The plain data of the queue: what its operations take and return.

The models are built when they are first used (``defer_build``): a command uses few of them, and to build all
is a tenth of what `organism tasks list` does.
"""
