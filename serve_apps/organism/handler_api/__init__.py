"""What authors of handlers deal with: loading, context, errors and results."""
