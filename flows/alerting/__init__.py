"""Alerts: what is wrong (`checks`), reported once (`transitions`), delivered (`automations`)."""
