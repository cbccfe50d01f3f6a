"""What a session remembers of messages and whispers that its member sent under ids."""

from __future__ import annotations

from .entries import Said


class Remembered:
    """What was said under some ids: messages that stand in a row in a room's log, or a whisper."""

    __slots__ = ("ids", "room", "said", "seq", "ts", "when")

    def __init__(
        self, ids: tuple[str, ...], seq: int, ts: int, when: float, room: str = "", said: Said | None = None
    ) -> None:
        self.ids: tuple[str, ...] = ids
        self.seq: int = seq
        """The seq of the first message; 0 for a whisper, or while the broker had not placed it."""
        self.ts: int = ts
        self.when: float = when
        self.room: str = room
        """The key of the room in which it was said; empty for a whisper."""
        self.said: Said | None = said
        """The messages themselves, if the broker had not placed them yet when this was looked at last."""

    @property
    def pending(self) -> Said | None:
        """The messages, while they are on their way through the broker."""
        return self.said if self.said is not None and self.said.pending else None

    def place(self, id: str) -> tuple[int, int]:  # noqa: A002
        """Return the seq and the ts of what was said under this id."""
        index = self.ids.index(id)
        first = self if self.said is None else self.said
        return first.seq + index, first.ts + index

    def forget_text(self) -> int:
        """Keep no more than the place; return how many bytes less that takes."""
        said, self.said = self.said, None
        if said is None:
            return 0
        self.seq, self.ts = said.seq, said.ts
        return said.weight
