-- Adds a task and rolls it back, so that an error says why none can be added: read only, no disk space, a lock. Only a
-- real row detects a full disk. The transaction leaves nothing visible behind, and its end is flushed to disk all the
-- same.
DO $$
BEGIN
    IF to_regclass('tasks') IS NULL THEN
        RETURN;
    END IF;
    BEGIN
        INSERT INTO tasks (type, status) VALUES ('organism-write-check', 'created');
        RAISE EXCEPTION 'taken back' USING ERRCODE = 'OFTRY';
    EXCEPTION WHEN SQLSTATE 'OFTRY' THEN
        NULL;
    END;
END $$
