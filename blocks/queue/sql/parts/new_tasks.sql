-- New tasks, one array per column.
unnest(
    :id::uuid[], :type::text[], :params::text[], :description::text[], :domain::text[], :drift_score::float8[],
    :priority::int[], :run_after::timestamptz[], :max_attempts::int[], :timeout_s::float8[], :dedup_key::text[],
    :status::text[], :key::text[], :expires_at::timestamptz[], :cost::float8[], :traceparent::text[]
) WITH ORDINALITY AS t({new_task_columns}, place)
