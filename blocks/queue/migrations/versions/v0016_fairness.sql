-- Runs in one transaction, under live lanes and producers; it only adds. Lanes of the version before know no weights.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: where in its params a task has its key and its cost, if its producer does not say
ALTER TABLE task_types
    ADD COLUMN IF NOT EXISTS key_path text CHECK (key_path ~ '^params\.[A-Za-z0-9_-][A-Za-z0-9_.-]{0,190}$'),
    ADD COLUMN IF NOT EXISTS cost_path text CHECK (cost_path ~ '^params\.[A-Za-z0-9_-][A-Za-z0-9_.-]{0,190}$')

-- step: which limits the file of the organism declares
ALTER TABLE limits ADD COLUMN IF NOT EXISTS declared boolean NOT NULL DEFAULT false

-- step: keys that get more than others where they share
CREATE TABLE IF NOT EXISTS key_weights (
    key text PRIMARY KEY CHECK (key <> '' AND octet_length(key) <= 500),
    weight integer NOT NULL CHECK (weight BETWEEN 1 AND 1000),
    declared boolean NOT NULL DEFAULT false
)

-- step: what the policies say, once a statement: a setting that rows look at. With the rights of the tables' owner, for
-- whoever may only add tasks; a setting and no table for each row, because to change rights for each costs 25 us
DO $$
BEGIN
    EXECUTE format($f$
        CREATE OR REPLACE FUNCTION tasks_know_paths() RETURNS trigger LANGUAGE plpgsql
        SECURITY DEFINER SET search_path = %s, pg_temp AS $b$
        BEGIN
            PERFORM set_config('organism.paths', coalesce((
                SELECT jsonb_object_agg(type, jsonb_build_object('key', key_path, 'cost', cost_path))::text
                FROM task_types WHERE key_path IS NOT NULL OR cost_path IS NOT NULL), ''), true);
            RETURN NULL;
        END $b$
    $f$, (SELECT relnamespace::regnamespace FROM pg_class WHERE oid = 'tasks'::regclass));
END $$

-- step: what the params of a task hold there
CREATE OR REPLACE FUNCTION tasks_read_paths() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    paths jsonb := current_setting('organism.paths')::jsonb -> NEW.type;
    found jsonb;
BEGIN
    IF NEW.key IS NULL AND paths ->> 'key' IS NOT NULL THEN
        found := NEW.params #> (string_to_array(paths ->> 'key', '.'))[2:];
        -- Nothing there means no key.
        IF jsonb_typeof(found) <> 'null' THEN
            NEW.key := found #>> '{}';
            IF jsonb_typeof(found) NOT IN ('string', 'number') OR octet_length(NEW.key) NOT BETWEEN 1 AND 500 THEN
                RAISE EXCEPTION 'the key of a task of type % is in its %, which holds no text or number of 1 to 500 bytes: %',
                    NEW.type, paths ->> 'key', left(NEW.key, 40)
                    USING ERRCODE = 'check_violation', TABLE = 'tasks', CONSTRAINT = TG_NAME;
            END IF;
        END IF;
    END IF;
    IF NEW.cost IS NULL AND paths ->> 'cost' IS NOT NULL THEN
        found := NEW.params #> (string_to_array(paths ->> 'cost', '.'))[2:];
        IF jsonb_typeof(found) <> 'null' THEN
            IF (CASE WHEN jsonb_typeof(found) = 'number' THEN found::numeric NOT BETWEEN 0 AND 1e15 ELSE true END) THEN
                RAISE EXCEPTION 'the cost of a task of type % is in its %, which holds no number of 0 to 1e15: %',
                    NEW.type, paths ->> 'cost', left(found #>> '{}', 40)
                    USING ERRCODE = 'check_violation', TABLE = 'tasks', CONSTRAINT = TG_NAME;
            END IF;
            NEW.cost := found::float8;
        END IF;
    END IF;
    RETURN NEW;
END $$

-- step: every way in leads through here: SQL, COPY, files and clients
CREATE OR REPLACE TRIGGER tasks_know_paths BEFORE INSERT ON tasks FOR EACH STATEMENT EXECUTE FUNCTION tasks_know_paths()

-- step: where no policy has a path, a row costs a look at the setting
CREATE OR REPLACE TRIGGER tasks_read_paths BEFORE INSERT ON tasks FOR EACH ROW
    WHEN ((NEW.key IS NULL OR NEW.cost IS NULL) AND current_setting('organism.paths', true) <> '')
    EXECUTE FUNCTION tasks_read_paths()

-- step: note on paths
COMMENT ON COLUMN task_types.key_path IS
    'Where the params of a task have its key, if it has none: `params.customer_id`. Nothing there: no key.'

-- step: note on costs
COMMENT ON COLUMN task_types.cost_path IS
    'Where the params of a task have its cost, if it has none: `params.max_tokens`. Nothing there: that of its type.'

-- step: note on declared limits
COMMENT ON COLUMN limits.declared IS 'True: from the file of the organism. The next deployment of it sets or removes it.'

-- step: note on weights
COMMENT ON TABLE key_weights IS
    'Keys that get so many times the share of another where tasks of one type and priority share. Others have weight 1.'
