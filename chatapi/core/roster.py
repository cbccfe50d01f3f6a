"""The names in a room: those of its members here and, if several servers share it, of its members elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from .member import Member
from .sorted_keys import SortedKeys
from .style import Style


class Roster:
    """The names of members here, of members elsewhere, and those that were granted to members about to join."""

    __slots__ = ("_elsewhere", "_granted", "_key", "_keys", "here", "styles")

    def __init__(self, key: Callable[[str], str]) -> None:
        self._key = key
        self.here: dict[str, Member] = {}
        """The members here, by the keys of their names."""
        self.styles: dict[Style, int] = {}
        """The number of members here with each style."""
        self._elsewhere: dict[str, str] = {}  # names by key
        self._keys = SortedKeys()  # of the members here and elsewhere
        self._granted: dict[str, str] = {}  # session keys by the key of the name

    def __len__(self) -> int:
        return len(self.here) + len(self._elsewhere)

    def first(self, most: int, after: str | None = None) -> list[str]:
        """Return the first `most` names behind `after`, sorted."""
        here, elsewhere = self.here, self._elsewhere
        keys = self._keys.after(None if after is None else self._key(after), most)
        return [elsewhere[key] if key in elsewhere else here[key].name for key in keys]

    def add(self, client: Member) -> None:
        """Add a member here."""
        self.styles[client.style] = self.styles.get(client.style, 0) + 1  # first: it raises if the style has no hash
        self._granted.pop(client.key, None)
        self._elsewhere.pop(client.key, None)
        self.here[client.key] = client
        self._keys.add(client.key)

    def remove(self, client: Member) -> None:
        """Remove a member here."""
        del self.here[client.key]
        self.styles[client.style] -= 1
        if not self.styles[client.style]:
            del self.styles[client.style]
        if client.key not in self._elsewhere:
            self._keys.discard(client.key)

    def rename(self, client: Member, name: str) -> None:
        """Give a member here another name."""
        self.remove(client)
        client.name, client.key = name, self._key(name)
        self.add(client)

    # For rooms that several servers share

    def is_elsewhere(self, key: str) -> bool:
        """Return whether the name of this key belongs to a member of another server."""
        return key in self._elsewhere

    def is_decided(self, key: str) -> bool:
        """Return whether the name of this key need not be claimed, because a member here has it or it was granted."""
        return key in self.here or key in self._granted

    def grant(self, key: str, session_key: str) -> None:
        """Note that the broker has given a name to a member that is about to join, in the session with this key."""
        self._granted[key] = session_key

    def is_granted(self, key: str) -> bool:
        """Return whether the broker has given this name to a member that is about to join."""
        return key in self._granted

    def session_key(self, key: str) -> str:
        """Return the key of the session that this name was granted to; empty without a grant or a session."""
        return self._granted.get(key, "")

    def withdraw_grant(self, key: str) -> bool:
        """Withdraw a grant that was not used; return whether there was one."""
        return self._granted.pop(key, None) is not None

    def elsewhere(self, key: str, name: str | None) -> None:
        """Note the name of a member of another server, or with None, that none there has this key any more."""
        if name is not None:
            self._elsewhere[key] = name
            self._keys.add(key)
        else:
            self._elsewhere.pop(key, None)
            if key not in self.here:
                self._keys.discard(key)
