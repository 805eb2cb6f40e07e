"""Worker processes of organs that say ``processes``: pool, messages, and their end."""
