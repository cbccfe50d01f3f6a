"""A progress bar on standard error, if that is a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Final

_WIDTH: Final = 30
_EVERY: Final = 0.1  # seconds


class Progress:
    """A bar for the time of a `with` block; if the total is unknown (`total` is 0), only a count."""

    def __init__(self, what: str, total: int, *, shown: bool = True) -> None:
        self._what = what
        self._total = total
        self._shown = shown and sys.stderr is not None and sys.stderr.isatty()
        self._next = 0.0

    def __call__(self, done: int) -> None:
        """Show how much is done."""
        if self._shown and (now := time.monotonic()) >= self._next:
            self._next = now + _EVERY
            part = min(done / self._total, 1) if self._total else 0
            bar = f"[{'#' * int(part * _WIDTH):.<{_WIDTH}}] {part:4.0%}" if self._total else f"{done:,}"
            self._write(f"\r{self._what} {bar}\x1b[K")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._next:
            self._write("\r\x1b[K")  # clear the line for the result

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()
