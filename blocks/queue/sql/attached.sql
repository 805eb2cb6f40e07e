-- Objects attached to the table of tasks: indexes, constraints, triggers, views, policies, and foreign keys of other
-- tables. For each, the columns that it depends on by more than a plain index key, and the statement that drops it.
WITH tasks AS MATERIALIZED (
    SELECT to_regclass('tasks')::oid AS oid
), used AS MATERIALIZED (
    SELECT d.classid, d.objid, array_remove(array_agg(DISTINCT a.attname::text), NULL) AS columns
    FROM pg_depend d LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid AND a.attnum > 0
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = (SELECT oid FROM tasks)
    GROUP BY d.classid, d.objid
)
SELECT 'index' AS kind, c.relname::text AS name, pg_relation_size(c.oid) AS bytes,
       -- Plain keys follow the type of their column; a predicate or an expression does not.
       ARRAY(SELECT a.attname::text FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attnum > 0
             AND concat(pg_get_expr(i.indpred, i.indrelid), ' ', pg_get_expr(i.indexprs, i.indrelid))
                 ~ ('\m' || a.attname || '\M')) AS columns,
       format('DROP INDEX CONCURRENTLY %s', c.oid::regclass) AS drop
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = (SELECT oid FROM tasks)
  AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid AND conrelid = i.indrelid)
UNION ALL
SELECT CASE k.contype WHEN 'c' THEN 'check' WHEN 'f' THEN 'foreign key' ELSE 'unique constraint' END,
       k.conname::text, coalesce(pg_relation_size(nullif(k.conindid, 0)), 0),
       CASE WHEN k.contype IN ('c', 'f') THEN coalesce(used.columns, '{}') ELSE '{}' END,
       format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname)
FROM pg_constraint k LEFT JOIN used ON used.classid = 'pg_constraint'::regclass AND used.objid = k.oid
WHERE k.conrelid = (SELECT oid FROM tasks) AND k.contype IN ('c', 'f', 'u', 'x', 'p')
UNION ALL
SELECT 'foreign key of another table', format('%s.%s', k.conrelid::regclass, k.conname), 0, '{}',
       format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname)
FROM pg_constraint k
WHERE k.confrelid = (SELECT oid FROM tasks) AND k.conrelid <> k.confrelid AND k.contype = 'f' AND k.conparentid = 0
UNION ALL
SELECT 'trigger', t.tgname::text, 0, coalesce(used.columns, '{}'),
       format('DROP TRIGGER %I ON %s', t.tgname, t.tgrelid::regclass)
FROM pg_trigger t LEFT JOIN used ON used.classid = 'pg_trigger'::regclass AND used.objid = t.oid
WHERE t.tgrelid = (SELECT oid FROM tasks) AND NOT t.tgisinternal
UNION ALL
SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'rule' END,
       CASE WHEN c.relkind IN ('v', 'm') THEN c.oid::regclass::text ELSE r.rulename::text END,
       pg_relation_size(CASE c.relkind WHEN 'm' THEN c.oid END), coalesce(used.columns, '{}'),
       CASE c.relkind WHEN 'v' THEN format('DROP VIEW %s', c.oid::regclass)
                      WHEN 'm' THEN format('DROP MATERIALIZED VIEW %s', c.oid::regclass)
                      ELSE format('DROP RULE %I ON %s', r.rulename, c.oid::regclass) END
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN used ON used.classid = 'pg_rewrite'::regclass AND used.objid = r.oid
UNION ALL
SELECT 'policy', p.polname::text, 0, coalesce(used.columns, '{}'),
       format('DROP POLICY %I ON %s', p.polname, p.polrelid::regclass)
FROM pg_policy p LEFT JOIN used ON used.classid = 'pg_policy'::regclass AND used.objid = p.oid
WHERE p.polrelid = (SELECT oid FROM tasks)
ORDER BY 1, 2
