"""Who is in a room: its members here and, where several servers share it, the names of those elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from .member import Member
from .sorted_keys import SortedKeys
from .style import Style


class Roster:
    """Names, each of which is somebody's: a member's here, one's elsewhere, or granted to who is about to come in."""

    __slots__ = ("_elsewhere", "_granted", "_key", "_keys", "here", "styles")

    def __init__(self, key: Callable[[str], str]) -> None:
        self._key = key
        self.here: dict[str, Member] = {}
        """The members here, by the keys of their names."""
        self.styles: dict[Style, int] = {}
        """How many of them each style has."""
        self._elsewhere: dict[str, str] = {}
        self._keys = SortedKeys()  # of those here and elsewhere
        self._granted: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.here) + len(self._elsewhere)

    def first(self, most: int, after: str | None = None) -> list[str]:
        """The first so many names, sorted, behind `after`."""
        here, elsewhere = self.here, self._elsewhere
        keys = self._keys.after(None if after is None else self._key(after), most)
        return [elsewhere[key] if key in elsewhere else here[key].name for key in keys]

    def add(self, client: Member) -> None:
        """A member comes in here."""
        self._granted.pop(client.key, None)
        self._elsewhere.pop(client.key, None)
        self.here[client.key] = client
        self.styles[client.style] = self.styles.get(client.style, 0) + 1
        self._keys.add(client.key)

    def remove(self, client: Member) -> None:
        """A member here leaves."""
        del self.here[client.key]
        self.styles[client.style] -= 1
        if not self.styles[client.style]:
            del self.styles[client.style]
        if client.key not in self._elsewhere:
            self._keys.discard(client.key)

    def rename(self, client: Member, name: str) -> None:
        """A member here has another name from here on."""
        self.remove(client)
        client.name, client.key = name, self._key(name)
        self.add(client)

    # Where several servers share the room

    def is_elsewhere(self, key: str) -> bool:
        """Whether the member whose name has this key is in the room through another server."""
        return key in self._elsewhere

    def is_decided(self, key: str) -> bool:
        """Return whether it is known here, without the broker, if a member with the name of this key can come in."""
        return key in self.here or key in self._granted

    def grant(self, key: str, session_key: str) -> None:
        """The broker has given this name to who is about to come in, in that session."""
        self._granted[key] = session_key

    def is_granted(self, key: str) -> bool:
        """Whether the broker has given this name to who is about to come in."""
        return key in self._granted

    def session_key(self, key: str) -> str:
        """Return the key of the session that the name of this key was granted to; empty if it was not, or for none."""
        return self._granted.get(key, "")

    def use_up(self, key: str) -> bool:
        """The time to come in is over; returns whether the name was not used."""
        return self._granted.pop(key, None) is not None

    def elsewhere(self, key: str, name: str | None) -> None:
        """Somebody is called so on another server, or nobody is any more."""
        if name is not None:
            self._elsewhere[key] = name
            self._keys.add(key)
        else:
            self._elsewhere.pop(key, None)
            if key not in self.here:
                self._keys.discard(key)
