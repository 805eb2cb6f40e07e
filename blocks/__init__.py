"""The queue engine, and the Prefect blocks that say where the queue, Ray and the organism are."""
