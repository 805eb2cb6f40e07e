"""Postgres for the queue: connections, statements, migrations and the classification of errors."""
