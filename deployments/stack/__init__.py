"""The embedded stack of `organism up`: Postgres, Ray, the Prefect server, the organism and the gateway."""
