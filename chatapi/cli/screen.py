"""The output of the example client: lines of the chat on standard output, its own messages on standard error.

Everything that it prints passes through this module, and none of it is trusted, because a server can send anything.
Each line stays one line; control characters, and characters that reorder other lines, do not reach the terminal
(`text.one_line`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Final

from chatapi import Message, Whisper
from chatapi.addresses import reason
from chatapi.limits import LISTED
from chatapi.protocol.text.rendering import TEXT
from chatapi.text import one_line

PROG: Final = "examplechatclient"


class Screen:
    """Standard output. When it cannot be written any more, it calls `end` with the reason, empty for a closed pipe."""

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self.is_terminal: bool = sys.stdout is not None and sys.stdout.isatty()

    def tell(self, *lines: str) -> None:
        """Show lines in the form of the server's own lines in the text protocol."""
        self._show(b"".join(map(TEXT.line, lines)))

    def whisper(self, whisper: Whisper) -> None:
        """Show a whisper."""
        self._show(TEXT.whisper(whisper))

    def messages(self, *messages: Message) -> None:
        """Show messages: the name, and each line of the text on its own line."""
        lines = (f"{message.name}:{line}" for message in messages for line in message.text.split("\n") if line)
        self._show("".join(f"{one_line(line)}\n" for line in lines).encode())

    def _show(self, data: bytes) -> None:
        """Write complete, clean lines at once."""
        try:
            if sys.stdout is not None:  # None if it was closed before the program began
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        except OSError as error:
            sys.stdout = None  # otherwise the interpreter reports an error when it flushes it at exit
            closed = isinstance(error, BrokenPipeError)  # as by `| head`
            self._end("" if closed else f"cannot print: {reason(error)}")


def listed(heading: str, names: Sequence[str], count: int) -> str:
    """Return names and their number in the form of the text protocol."""
    shown = names[:LISTED]
    more = f" and {count - len(shown):,} more" if count > len(shown) else ""
    return f"{heading} ({count:,}): {', '.join(shown)}{more}"


def say(message: str) -> None:
    """Print a message of the client itself on standard error."""
    if sys.stderr is not None:
        print(f"{PROG}: {one_line(message)}", file=sys.stderr)  # noqa: T201
