"""What the example client shows: lines of the chat on its output, its own troubles beside it.

All that it prints goes through here, and nothing of it is trusted, because a server can send anything: each line is one
line, and no control character, and nothing that reorders other lines, reaches the terminal (`framing.one_line`).
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
    """The standard output; once it takes no more, `end` is called with the reason, which is empty for a closed pipe."""

    def __init__(self, end: Callable[[str], None]) -> None:
        self._end = end
        self.is_terminal: bool = sys.stdout is not None and sys.stdout.isatty()

    def tell(self, *lines: str) -> None:
        """Show lines as the server's own are in the text protocol."""
        self._show(b"".join(map(TEXT.line, lines)))

    def whisper(self, whisper: Whisper) -> None:
        """Show what a member said to this one alone."""
        self._show(TEXT.whisper(whisper))

    def messages(self, *messages: Message) -> None:
        """Show what members said, a line for each line of it."""
        lines = (f"{message.name}:{line}" for message in messages for line in message.text.split("\n") if line)
        self._show("".join(f"{one_line(line)}\n" for line in lines).encode())

    def _show(self, data: bytes) -> None:
        """Show whole lines, which are clean, at once."""
        try:
            if sys.stdout is not None:  # it may have been closed before this program began
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        except OSError as error:
            sys.stdout = None  # or the interpreter complains when it flushes it
            closed = isinstance(error, BrokenPipeError)  # as by `| head`: nobody wants to hear more
            self._end("" if closed else f"cannot print: {reason(error)}")


def listed(heading: str, names: Sequence[str], count: int) -> str:
    """Names and their number, as the text protocol tells them."""
    shown = names[:LISTED]
    more = f" and {count - len(shown):,} more" if count > len(shown) else ""
    return f"{heading} ({count:,}): {', '.join(shown)}{more}"


def say(message: str) -> None:
    """Say something beside the output."""
    if sys.stderr is not None:
        print(f"{PROG}: {one_line(message)}", file=sys.stderr)  # noqa: T201
