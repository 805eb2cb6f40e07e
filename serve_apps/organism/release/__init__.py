"""Deploying the organism: what is deployed, what that changes, and replacing what runs."""
