"""The applications: the organism, which runs on Ray Serve, and the gateway, which may."""
