SELECT kind, name, reason, paused_at FROM pauses ORDER BY kind, name
