"""A lane: claims tasks, calls the organism and settles outcomes, in plain asyncio without Prefect or Ray."""
