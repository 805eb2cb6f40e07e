"""Helpers of the flows for Prefect: states, schedules, deployments, stale runs, text on pages."""
