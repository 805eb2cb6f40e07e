"""The embedded PostgreSQL server, its roles and its user on the machine."""
