"""HTTP for all routes of the gateway: tokens, limits, bodies, problem details, OpenAPI."""
