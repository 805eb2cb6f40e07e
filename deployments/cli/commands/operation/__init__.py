"""Commands for work: `dispatch`, `schedule`, `alerts`, `verify`, `limits`, `drift`, `leftovers`."""
