-- Runs in one transaction, under live lanes and producers. The indexes are made after it, concurrently.

-- step: give up soon rather than queue every producer behind us
SET LOCAL lock_timeout = '10s'

-- step: whose work it is
ALTER TABLE tasks ADD COLUMN IF NOT EXISTS key text

-- step: note on keys
COMMENT ON COLUMN tasks.key IS
    'Customer, account, model: tasks of one type, priority and domain with different keys take turns.'

-- step: type, domain and key share an index entry, which has room for 2700 bytes
CREATE OR REPLACE TRIGGER tasks_names_are_short BEFORE INSERT ON tasks FOR EACH ROW
    WHEN (octet_length(NEW.type) > 1000 OR octet_length(NEW.dedup_key) > 1000 OR octet_length(NEW.domain) > 800
          OR octet_length(NEW.key) > 500)
    EXECUTE FUNCTION tasks_refuse('type and dedup_key are 1000 bytes long at most, domain 800, key 500')
