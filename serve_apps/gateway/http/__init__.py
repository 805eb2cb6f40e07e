"""What all routes of the gateway share: tokens, limits, bodies, problem details, OpenAPI."""
