"""Supervision: keeps the lanes of dispatch runs alive, and starts one dispatch run after another."""
