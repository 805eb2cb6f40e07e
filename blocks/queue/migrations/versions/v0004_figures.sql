-- Runs in one transaction, under live lanes; it only adds.

-- step: give up soon rather than queue every lane behind us
SET LOCAL lock_timeout = '10s'

-- step: what a lane has counted, as of its last heartbeat
ALTER TABLE lanes ADD COLUMN IF NOT EXISTS figures jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(figures) = 'object')

-- step: and what all lanes had counted that are gone
CREATE TABLE IF NOT EXISTS lane_totals (
    name text PRIMARY KEY,
    value double precision NOT NULL
)

-- step: whoever deletes a lane, of this version or an older one, keeps its figures
CREATE OR REPLACE FUNCTION lanes_keep_figures() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- In order, so that two of these never wait for each other.
    INSERT INTO lane_totals AS total (name, value)
    SELECT figure.key, sum(figure.value::float8)
    FROM gone CROSS JOIN LATERAL jsonb_each(gone.figures) figure
    WHERE jsonb_typeof(figure.value) = 'number'
    GROUP BY figure.key ORDER BY figure.key
    ON CONFLICT (name) DO UPDATE SET value = total.value + excluded.value;
    RETURN NULL;
END $$

-- step: in the same statement, so that nobody ever sees them twice or not at all
CREATE OR REPLACE TRIGGER lanes_keep_figures AFTER DELETE ON lanes
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION lanes_keep_figures()

-- step: note on totals
COMMENT ON TABLE lane_totals IS
    'What lanes counted whose rows are gone; with lanes.figures, what all lanes there ever were have counted.'
