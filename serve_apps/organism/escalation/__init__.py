"""Escalation: which tasks drift too much, and the steps that a planner makes of them."""
