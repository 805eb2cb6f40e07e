"""Alembic's entry: runs the migrations on the connection `blocks.queue.db.migrate` hands over."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="organism_migrations",
    # Each is safe to run again; later ones build indexes concurrently, outside of any transaction.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
