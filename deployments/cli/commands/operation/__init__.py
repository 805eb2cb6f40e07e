"""The commands for work and its watch: `dispatch`, `schedule`, `alerts`, `verify`, `drift`, `leftovers`."""
