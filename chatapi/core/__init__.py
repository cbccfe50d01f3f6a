"""The core: the rooms, their members and what was said. It does no I/O, knows no protocol and never waits."""
