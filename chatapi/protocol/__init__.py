"""Protocols: bytes to their meaning and back, without I/O."""
