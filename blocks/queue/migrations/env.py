"""Alembic's entry: runs the migrations on the connection `blocks.queue.migrate` hands over."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="organism_migrations",
    # One transaction for everything: a migration that fails leaves the database as it was.
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
