"""What flows share of Prefect: states, schedules, deployments, stale runs, text on pages."""
