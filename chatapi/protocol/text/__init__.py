"""The text protocol: lines and commands, which people type and read."""
