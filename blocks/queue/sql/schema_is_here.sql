-- Whether the newest migration has been here; it made this column
SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('tasks') AND attname = 'begun_at' AND NOT attisdropped)
