"""An organ on this replica: its queue, its calls of a handler, and their timeouts."""
