"""Worker processes, for organs that say ``processes`` and for suspects: their pool, messages and end."""
