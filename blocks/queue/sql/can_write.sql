-- Adds a task and takes it back, so that an error says why none can be added: read only, no disk space, a lock. Only a
-- real row finds a full disk. The transaction has written nothing that anybody sees, and its end is flushed all the same.
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
