"""Lines to a standard stream, written by a thread: nobody waits for them, even if nobody reads them."""

from __future__ import annotations

import logging
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from logging.handlers import QueueHandler
from typing import Final

_WAITING: Final = 10_000
"""Lines that may wait to be written; further ones are dropped, and counted."""
_CLOSING: Final = 1.0
"""Seconds that the end of the program waits for lines to be written."""


class Lines:
    """What is written to one descriptor, in order.

    The thread uses neither the stream of that name nor a logging handler: a thread that is blocked in one of these
    holds a lock that the end of the process waits for.
    """

    def __init__(
        self,
        descriptor: int,
        failed: Callable[[str, OSError], None] | None = None,
        *,
        encoding: str = "utf-8",
    ) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._failed = failed
        self._queue: queue.Queue[str | None] = queue.Queue(_WAITING)
        self._dropped = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"lines to {descriptor}", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Have a line written; from any thread, without waiting."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            with self._lock:
                self._dropped += 1

    def close(self) -> None:
        """Wait until all is written, but not for long."""
        try:
            self._queue.put(None, timeout=_CLOSING)
        except queue.Full:
            return
        self._thread.join(_CLOSING)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            self._write(line)
            with self._lock:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                self._write(f"{now} {dropped} lines were dropped here, because this stream took nothing")

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode(self._encoding, "backslashreplace")
        try:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])
        except OSError as error:
            if self._failed is not None:
                self._failed(line, error)


class LinesHandler(QueueHandler):
    """A handler for a log that is written by such a thread."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(queue.Queue())  # which stays empty
        self._lines = lines

    def enqueue(self, record: logging.LogRecord) -> None:
        """Have a record written; `prepare` has formatted it."""
        self._lines.put(record.getMessage())
