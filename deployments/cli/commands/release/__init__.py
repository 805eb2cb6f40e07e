"""The commands that bring a version into service: `migrate`, `bootstrap`, `deploy`, and so on."""
