"""The embedded PostgreSQL server, its roles and the user that it runs as."""
