"""Keeping the lanes of dispatch runs going, and one run after another."""
