"""Lanes: claim tasks, call the organism and settle the outcomes, in plain asyncio without Prefect or Ray."""
