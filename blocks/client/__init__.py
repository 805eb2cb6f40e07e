"""Clients of the gateway, for programs that know neither Prefect nor Ray nor Postgres."""
