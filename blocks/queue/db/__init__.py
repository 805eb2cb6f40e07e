"""Postgres for the queue: connections, statements, migrations, and what its errors mean."""
