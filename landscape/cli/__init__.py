"""The command line: one command a file; arguments in, calls out, no mathematics."""
