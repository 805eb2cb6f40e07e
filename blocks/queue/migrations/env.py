"""Entry point of Alembic: runs the migrations on the connection that `blocks.queue.db.migrate` passes."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="organism_migrations",
    # Each migration is safe to run again. Later ones build indexes concurrently, outside of any transaction.
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
