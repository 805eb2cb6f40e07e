-- What the reap has done.
SELECT (SELECT count(*) FROM ended) AS lanes,
       count(*) FILTER (WHERE status <> 'failed') AS retried,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       -- The handlers of these tasks may still run: the caller has them stopped.
       coalesce(array_agg(id::text), '{}') AS ids, coalesce(array_agg(claim), '{}') AS claims
FROM reaped
