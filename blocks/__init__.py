"""What flows are plugged into: the queue engine, and the Prefect blocks that say where things are."""
