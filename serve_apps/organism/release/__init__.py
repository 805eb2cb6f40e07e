"""Deployment of the organism: what is deployed, what that changes, and the replacement of what runs."""
