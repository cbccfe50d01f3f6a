"""Lines to a standard stream, written by a thread, so that the program never waits for the reader of the stream."""

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

_MAX_WAITING: Final = 10_000
"""Lines that may wait to be written; further ones are dropped and counted."""
_CLOSE_SECONDS: Final = 1.0
"""Seconds for which the end of the program waits for lines to be written."""


class Lines:
    """Lines for one descriptor, in order.

    The thread uses neither Python's stream of that descriptor nor a logging handler, because a thread that blocks in
    one of these holds a lock, and the end of the process would wait for that lock.
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
        self._queue: queue.Queue[str | None] = queue.Queue(_MAX_WAITING)
        self._dropped = 0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"lines to {descriptor}", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        """Have a line written. Any thread may call this; it does not wait."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            with self._lock:
                self._dropped += 1

    def close(self) -> None:
        """Wait until everything is written, for a limited time."""
        try:
            self._queue.put(None, timeout=_CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            self._write(line)
            with self._lock:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                now = time.strftime("%Y-%m-%d %H:%M:%S")
                self._write(f"{now} {dropped} lines were dropped here, because nothing read this stream")

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
    """A log handler that gives its records to `Lines`."""

    def __init__(self, lines: Lines) -> None:
        super().__init__(queue.Queue())  # this queue stays empty
        self._lines = lines

    def enqueue(self, record: logging.LogRecord) -> None:
        """Have a record written, which `prepare` has formatted."""
        self._lines.put(record.getMessage())
