"""Keys in sorted order: a page of them costs as much as the page, however many keys there are."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable


class SortedKeys:
    """A set of strings that is kept sorted. Adding and removing one moves at most 8 bytes for each key behind it."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._keys = sorted(set(keys))

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: str) -> None:
        """Add a key; nothing happens where it is there already."""
        if not self._holds(key):
            insort(self._keys, key)

    def discard(self, key: str) -> None:
        """Remove a key; nothing happens where it is not there."""
        if self._holds(key):
            del self._keys[bisect_left(self._keys, key)]

    def after(self, key: str | None, most: int) -> list[str]:
        """The first `most` keys that come after `key`, which need not be there itself; of all if it is None."""
        start = 0 if key is None else bisect_right(self._keys, key)
        return self._keys[start : start + most]

    def _holds(self, key: str) -> bool:
        at = bisect_left(self._keys, key)
        return at < len(self._keys) and self._keys[at] == key
