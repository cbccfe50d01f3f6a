"""The contract suite: tests that every broker must pass; see docs/how-to/backends.md."""
