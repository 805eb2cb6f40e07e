-- How far the attempts in ended got, by what their handlers have saved. A checkpoint under an older claim is the one
-- that the attempt began with.
LEFT JOIN LATERAL (
    SELECT nullif(CASE WHEN saved.claim = ended.claim THEN saved.resumed_step ELSE saved.step END, 0) AS resumed_step,
           nullif(saved.step, 0) AS reached_step,
           CASE WHEN saved.claim = ended.claim THEN saved.fraction END AS fraction
    FROM task_checkpoints saved WHERE saved.task_id = ended.id
) reach ON true
