"""What the stack needs of the operating system: processes, ports, folders, secrets in files."""
