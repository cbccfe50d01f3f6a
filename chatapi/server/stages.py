"""The stages of a connection's life.

::

    OPENING ──▶ JOINED ──▶ FLUSHING ──▶ LINGERING ──▶ CLOSED
       └──────────┴──────────┘ a refusal, a goodbye, a disconnect, the other side's end of stream

FLUSHING sends what is left; LINGERING has ended the stream and waits for the other side's end, because a close with
unread input makes a reset that destroys what is in flight (RFC 1122, 4.2.2.13). Both discard what they receive.
"""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """Where in its life a connection is."""

    OPENING = 0
    JOINED = 1
    FLUSHING = 2
    LINGERING = 3
    CLOSED = 4
