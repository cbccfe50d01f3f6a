"""Pages of history and deletions, for a program."""

from __future__ import annotations

import anyio

from .bots import taken
from .core.entries import Deletion
from .core.history import read_page
from .core.hub import Hub
from .core.room import Room
from .errors import NoSuchMessage
from .events import Deleted, History
from .tasks import wait


class PastOfRooms:
    """Reads and deletes messages, as far back as the broker keeps them. `ChatAPI` describes the methods."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._deletions: dict[tuple[str, int], anyio.Event] = {}  # those in progress, by room and message

    async def history(self, room: str, before: int | None, limit: int) -> History:
        """Return a page of a room's history."""
        here = await self._opened(self._hub.naming.room(room))
        before = here.seq + 1 if before is None else min(before, here.seq + 1)
        messages, more = await wait(read_page(self._hub.broker, here, before, limit, here.log.max_bytes))
        return History(tuple(messages), more)

    async def delete(self, room: str, seq: int, name: str) -> Deleted:
        """Delete a message. Calls for the same message are executed one after the other."""
        naming = self._hub.naming
        deletion, key = Deletion(naming.name(name), seq), (naming.room_key(naming.room(room)), seq)
        while (other := self._deletions.get(key)) is not None:
            await other.wait()
        done = self._deletions[key] = anyio.Event()
        try:
            return await self._delete(room, deletion)
        finally:
            del self._deletions[key]
            done.set()

    async def _delete(self, room: str, deletion: Deletion) -> Deleted:
        seq = deletion.target
        gone = NoSuchMessage(f"{room!r} has no message {seq:,}; it may have been deleted")
        since = (await self._opened(self._hub.naming.room(room))).seq
        page = await self.history(room, seq + 1, 1)
        if not page.messages or page.messages[0].seq != seq or not page.messages[0].text:
            raise gone
        here = await self._opened(self._hub.naming.room(room))
        await taken(deletion, lambda: here.submit(deletion))
        if here.log.deletes(seq, since, deletion.seq):  # by another server, or by a call that was cancelled
            raise gone
        return Deleted(deletion.seq, deletion.ts, deletion.name, deletion.target)

    async def _opened(self, name: str) -> Room:
        while (room := self._hub.room(name)) is None:
            await wait(self._hub.open(name))
        return room
