"""The handlers that come with the organism. They show how little a handler needs."""
