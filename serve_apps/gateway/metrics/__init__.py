"""Metrics of the queue, the lanes, the organs and the gateway, for Prometheus."""
