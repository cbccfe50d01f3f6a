"""Calls the program's hook `on_presence` with each join, leave and rename, in their order."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable

from ..errors import Refused
from ..events import Joined, Left, Renamed
from .hooks import OnPresence, Spawn, checked, outcome


class PresenceHook:
    """The events for which the hook was not called yet; none if the program has no such hook."""

    def __init__(self, hook: OnPresence | None, spawn: Callable[[], Spawn]) -> None:
        self._hook = hook
        self._spawn = spawn
        self.untold: deque[tuple[str, Joined | Left | Renamed]] = deque()
        """Rooms and events for which the hook was not called yet, oldest first."""

    def add(self, room: str, event: Joined | Left | Renamed) -> None:
        """Note an event in a room."""
        if self._hook is not None:
            self.untold.append((room, event))

    def tell_next(self) -> None:
        """Call the hook with the oldest event, if there is one; an async hook is awaited by the serving chat."""
        if self._hook is None or not self.untold:
            return
        hook, (room, event) = self._hook, self.untold.popleft()
        result = outcome(lambda: hook(room, event))
        if isinstance(result, Awaitable):
            self._spawn()(result, shield=True).then(lambda told: _log_failure(told.result()))
        else:
            _log_failure(result)


def _log_failure(result: object) -> None:
    with contextlib.suppress(Refused):
        checked(result, "on_presence")
