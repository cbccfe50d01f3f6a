"""Messages and whispers that a member sent under ids, and their places in the log: a session remembers them."""

from __future__ import annotations

from .entries import Said


class Remembered:
    """Consecutive messages of a room's log, or a whisper, and the ids under which they were sent."""

    __slots__ = ("ids", "room", "said", "seq", "ts", "when")

    def __init__(
        self, ids: tuple[str, ...], seq: int, ts: int, when: float, room: str = "", said: Said | None = None
    ) -> None:
        self.ids: tuple[str, ...] = ids
        self.seq: int = seq
        """The seq of the first message; 0 for a whisper, or if the broker had not placed it at the last look."""
        self.ts: int = ts
        self.when: float = when
        self.room: str = room
        """The key of the room; empty for a whisper."""
        self.said: Said | None = said
        """The messages themselves, if the broker had not placed them at the last look."""

    @property
    def pending(self) -> Said | None:
        """The messages, while they are on their way through the broker."""
        return self.said if self.said is not None and self.said.pending else None

    def place(self, id: str) -> tuple[int, int]:  # noqa: A002
        """Return the seq and the ts of the message with this id."""
        index = self.ids.index(id)
        first = self if self.said is None else self.said
        return first.seq + index, first.ts + index

    def forget_text(self) -> int:
        """Forget the messages and keep their place; return how many bytes less that takes."""
        said, self.said = self.said, None
        if said is None:
            return 0
        self.seq, self.ts = said.seq, said.ts
        return said.weight
