-- $1 task id
SELECT claim, attempt, lane, cause, error, started_at, ended_at
FROM task_attempts WHERE task_id = $1 ORDER BY claim
