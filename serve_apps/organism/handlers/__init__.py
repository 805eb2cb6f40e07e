"""Handlers that come with the organism; examples of how little a handler needs."""
