"""The members that a room's fan-out passes serve, by style, so that a pass renders once for each style."""

from __future__ import annotations

from .member import Member
from .style import Style


class Readers:
    """Members that have read everything except `Room.fresh`, whose socket takes bytes, and whose lane is empty."""

    __slots__ = ("by_style",)

    def __init__(self) -> None:
        self.by_style: dict[Style, dict[int, Member]] = {}
        """The members by their ids; there is no empty style."""

    def __len__(self) -> int:
        return sum(map(len, self.by_style.values()))

    def get(self, id: int) -> Member | None:  # noqa: A002
        """Return the member with this id, if it is there."""
        return next((members[id] for members in self.by_style.values() if id in members), None)

    def add(self, client: Member) -> None:
        """Add a member."""
        self.by_style.setdefault(client.style, {})[client.id] = client

    def discard(self, client: Member) -> bool:
        """Remove a member; return whether it was there."""
        members = self.by_style.get(client.style, {})
        found = members.pop(client.id, None) is not None
        if found and not members:
            del self.by_style[client.style]
        return found
