-- Everything of the superuser in this database becomes the role's that the services connect as.
-- REASSIGN OWNED cannot do it: it refuses for the superuser that made the data folder.
DO $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('ALTER SCHEMA %I OWNER TO organism', nspname)
        FROM pg_namespace
        WHERE nspowner = 'postgres'::regrole AND nspname !~ '^pg_' AND nspname <> 'information_schema'
        UNION ALL
        SELECT format(
            'ALTER %s %s OWNER TO organism',
            CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                         WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END,
            pg_class.oid::regclass
        )
        FROM pg_class
        JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relowner = 'postgres'::regrole AND relkind IN ('r', 'p', 'S', 'v', 'm', 'c')
          AND nspname !~ '^pg_' AND nspname <> 'information_schema'
          -- Sequences of a column follow its table; what an extension made is the extension's.
          AND NOT EXISTS (
              SELECT FROM pg_depend
              WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid
                AND (deptype = 'e' OR relkind = 'S' AND deptype IN ('a', 'i'))
          )
        UNION ALL
        SELECT format('ALTER TYPE %s OWNER TO organism', pg_type.oid::regtype)
        FROM pg_type
        JOIN pg_namespace ON pg_namespace.oid = typnamespace
        WHERE typowner = 'postgres'::regrole AND typtype IN ('e', 'd', 'r')
          AND nspname !~ '^pg_' AND nspname <> 'information_schema'
          AND NOT EXISTS (
              SELECT FROM pg_depend
              WHERE classid = 'pg_type'::regclass AND objid = pg_type.oid AND deptype = 'e'
          )
        UNION ALL
        SELECT format('ALTER ROUTINE %s OWNER TO organism', pg_proc.oid::regprocedure)
        FROM pg_proc
        JOIN pg_namespace ON pg_namespace.oid = pronamespace
        WHERE proowner = 'postgres'::regrole AND nspname !~ '^pg_' AND nspname <> 'information_schema'
          AND NOT EXISTS (
              SELECT FROM pg_depend
              WHERE classid = 'pg_proc'::regclass AND objid = pg_proc.oid AND deptype = 'e'
          )
    LOOP
        EXECUTE statement;
    END LOOP;
    EXECUTE format('ALTER DATABASE %I OWNER TO organism', current_database());
END
$$;
