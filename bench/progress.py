"""How far a study is, on stderr: one line that is written anew on a terminal, and a line for each run elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Told of each run before it begins; `expected` is how many seconds one takes, until that is known better."""

    def __init__(self, total: int, expected: float, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = total
        self._expected = expected
        self._begun = 0
        self._start = time.monotonic()

    def run(self, what: str) -> None:
        """The next run begins."""
        passed = time.monotonic() - self._start
        each = passed / self._begun if self._begun else self._expected
        left = each * (self._total - self._begun)
        self._begun += 1
        self._write(f"{self._begun} of {self._total}: {what}, about {_duration(left)} left")

    def skip(self) -> None:
        """A run that will not be done."""
        self._total -= 1

    def end(self) -> None:
        """All is done: the line makes way for what is printed next."""
        if self._stream.isatty():
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _write(self, line: str) -> None:
        self._stream.write(f"\r\x1b[K{line}" if self._stream.isatty() else f"{line}\n")
        self._stream.flush()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
