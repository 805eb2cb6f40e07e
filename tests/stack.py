"""The whole embedded stack as a fixture."""
