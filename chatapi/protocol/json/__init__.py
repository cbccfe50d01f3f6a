"""The JSON protocol: one object a line, which programs read and write."""
