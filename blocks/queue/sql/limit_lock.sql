-- Waits until no other claim counts what these limits allow. A statement of its own: those after it see all that has
-- been claimed by then. Not an advisory lock: any login could hold that for ever.
SELECT name, kind, types, by_key, amount FROM limits WHERE name = ANY (:names::text[]) ORDER BY name FOR NO KEY UPDATE
