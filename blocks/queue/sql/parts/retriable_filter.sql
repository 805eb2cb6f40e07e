-- Those that can be queued again as new ones.
{task_filter}
  AND status IN ('failed', 'cancelled')
