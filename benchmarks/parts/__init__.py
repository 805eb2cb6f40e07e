"""One module a part: an idea to measure, and ``measure(stack, options)``."""
