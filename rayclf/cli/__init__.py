"""The command line: one module a command. Each parses, calls the façade, and shows the result."""
