-- Run at the end of every `migrate`, in one transaction, with the SQL of grants.sql after it. Roles belong to the
-- server and not to a database: another queue on it may have made them, or be making them now.

-- step: group roles. Whoever migrates need not be one who may make them
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['organism_submitter', 'organism_lane', 'organism_operator', 'organism_migrator'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            END IF;
        EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
END $$
