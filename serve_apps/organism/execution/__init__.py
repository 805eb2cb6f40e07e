"""Execution of tasks on a replica: organs, their queues, timeouts, threads and outcomes."""
