"""Escalated tasks: which drift too much, and the steps that a planner makes of them."""
