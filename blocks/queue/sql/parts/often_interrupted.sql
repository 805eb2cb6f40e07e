-- Unfinished tasks that were interrupted more than twice; in the words of the index tasks_interrupted.
interrupted > 2 AND status IN ('queued', 'retry', 'running')
