"""What programs on this machine need to find the embedded stack: its state and its secrets."""
