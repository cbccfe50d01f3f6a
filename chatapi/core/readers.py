"""The members that a room's fan-out passes serve, by style, so that a pass renders once for each style."""

from __future__ import annotations

from .member import Member
from .style import Style


class Readers:
    """Members that are up to date except for what is fresh, have a socket that takes bytes, and an empty lane."""

    __slots__ = ("by_style",)

    def __init__(self) -> None:
        self.by_style: dict[Style, dict[int, Member]] = {}
        """The members by their ids; no style is without members."""

    def __len__(self) -> int:
        return sum(map(len, self.by_style.values()))

    def get(self, id: int) -> Member | None:  # noqa: A002
        """Return the member with this id, if it is among them."""
        return next((members[id] for members in self.by_style.values() if id in members), None)

    def add(self, client: Member) -> None:
        """Serve this member from here on."""
        self.by_style.setdefault(client.style, {})[client.id] = client

    def discard(self, client: Member) -> bool:
        """Serve this member no more; return whether it was among them."""
        members = self.by_style.get(client.style, {})
        found = members.pop(client.id, None) is not None
        if found and not members:
            del self.by_style[client.style]
        return found
