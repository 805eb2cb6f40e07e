"""Task files: reading them line by line, and writing them from tasks of the queue."""
