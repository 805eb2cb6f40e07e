"""The plain data of the queue: what its operations take and return."""
