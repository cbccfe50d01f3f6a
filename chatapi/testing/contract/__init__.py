"""What every broker must do, as tests that anybody can run over theirs; see docs/backends.md."""
