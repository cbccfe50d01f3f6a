"""The output of a sub-command: standard output, or a file that gets its name when it is complete."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_BUFFER_BYTES: Final = 64 * 1024


class CannotWrite(Exception):
    """Nothing more can be written; the text is the reason, and is empty if a pipe was closed, as by `| head`."""


class Output:
    """Bytes for a descriptor, in large pieces.

    When Ctrl-C ends the program, buffered bytes are dropped; a buffered file would wait until a full pipe accepts them.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffered: list[bytes] = []
        self._size = 0
        self.is_terminal: bool = os.isatty(descriptor)

    def write(self, data: bytes) -> None:
        """Write bytes, or buffer them until `flush`."""
        self._buffered.append(data)
        self._size += len(data)
        if self._size >= _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the buffered bytes."""
        data = memoryview(b"".join(self._buffered))
        self._buffered.clear()
        self._size = 0
        while data:
            data = data[os.write(self._descriptor, data) :]


@contextmanager
def output(path: str | None = None) -> Iterator[Output]:
    """Open standard output, or the file at `path`; everything is written when the block ends. Raises `CannotWrite`."""
    try:
        if path is None:
            if sys.stdout is None:
                raise CannotWrite("the standard output is closed")
            out = Output(sys.stdout.fileno())
            try:
                yield out
            except Exception:  # not Ctrl-C
                out.flush()  # an incomplete output is better than none
                raise
            out.flush()
        elif os.path.exists(path) and not os.path.isfile(path):  # such as a pipe
            with open(path, "wb", buffering=0) as file:
                yield (out := Output(file.fileno()))
                out.flush()
        else:
            with _replaced(os.path.realpath(path)) as out:
                yield out
    except OSError as error:
        where = "the standard output" if path is None else repr(path)
        closed = isinstance(error, BrokenPipeError)
        raise CannotWrite("" if closed else f"cannot write to {where}: {error.strerror or error}") from None


@contextmanager
def _replaced(path: str) -> Iterator[Output]:
    """Open a temporary file that replaces the file at `path` when it is complete."""
    mask = os.umask(0)
    os.umask(mask)
    mode = stat.S_IMODE(os.stat(path).st_mode) if os.path.exists(path) else 0o666 & ~mask
    descriptor, temporary = tempfile.mkstemp(prefix=f"{os.path.basename(path)}.", dir=os.path.dirname(path))
    try:
        with open(descriptor, "wb", buffering=0):
            yield (out := Output(descriptor))
            out.flush()
            os.fsync(descriptor)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
