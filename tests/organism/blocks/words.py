"""In a folder called `blocks`, without an __init__.py."""

GREETING = "hello from a project of one's own"
