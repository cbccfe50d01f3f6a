"""The two executables: their flags, their messages and their exit codes."""
