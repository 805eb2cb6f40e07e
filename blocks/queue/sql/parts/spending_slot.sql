-- The beginning of the sixtieth of a limit's period in which a moment is.
to_timestamp(floor(extract(epoch FROM spent.moment)::float8 / (limits.period_s / 60)) * (limits.period_s / 60))
