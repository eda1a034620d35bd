"""Who is measured. Each module is a process that does the same small tasks its own way; see `protocol`."""
