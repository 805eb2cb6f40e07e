-- Those that are unfinished and have not been asked to stop.
{task_filter}
  AND status IN ('created', 'queued', 'running', 'retry') AND NOT cancel_requested
