"""What a handler of the test stack imports by the name `flows`."""

from blocks.words import GREETING


def greet(name):
    """Return a greeting of the user's own."""
    return f"{GREETING}, {name}"
