"""What runs on Ray Serve."""
