"""The stack's use of the operating system: processes, ports, folders, concurrent steps."""
