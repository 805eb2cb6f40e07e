"""What somebody must be told of: what is wrong (`looks`), said once (`edges`), delivered (`automations`)."""
