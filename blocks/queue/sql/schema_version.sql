-- The number of the newest migration that this database has had.
SELECT max(version_num) FROM organism_migrations
