SELECT EXISTS (SELECT FROM task_events WHERE task_id = :id AND name = :name)
