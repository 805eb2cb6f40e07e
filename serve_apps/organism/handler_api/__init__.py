"""What authors of handlers meet: loading, context, errors and results."""
