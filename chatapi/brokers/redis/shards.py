"""The shards of a node: one for each Redis server that has rooms, and the rooms that move when the topology changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import anyio.abc
from coredis.exceptions import RedisError

from .room import SharedRoom
from .shard import Shard, ShardOptions
from .topology import Server, Topology


class Shards:
    """Finds the shard of a key, and makes shards that are missing."""

    def __init__(self, topology: Topology, options: ShardOptions) -> None:
        self._topology, self._options = topology, options
        self._shards: dict[str, Shard] = {}
        self._tasks: anyio.abc.TaskGroup | None = None
        self._node_tag, self._node_channel = "", ""
        self._listening: Shard | None = None  # the shard with the node's own channel

    def __iter__(self) -> Iterator[Shard]:
        return iter(self._shards.values())

    def start(self, tasks: anyio.abc.TaskGroup, rooms: Iterable[SharedRoom], node_tag: str, node_channel: str) -> Shard:
        """Connect to every server, for these rooms and the node's own channel; return the shard of the channel."""
        self._tasks = tasks
        for room in rooms:
            self.for_tag(room.keys.tag).add(room)
        self._connect_all()
        self._node_tag, self._node_channel = node_tag, node_channel
        self._listening = self.for_tag(node_tag)
        self._listening.subscriptions.add(node_channel)
        return self._listening

    def stop(self) -> None:
        """Fail all requests, and forget the shards."""
        self._tasks = None
        for shard in self:
            shard.drop()
        self._shards.clear()

    def wake(self) -> None:
        """Begin round trips wherever there is something to ask."""
        for shard in self:
            shard.wake()

    def for_tag(self, tag: str) -> Shard:
        """Return the shard that has the keys with this hash tag."""
        return self._at(self._topology.server_for(tag))

    def _connect_all(self) -> None:
        """Connect to every server that has rooms before somebody has to wait for it."""
        for server in self._topology.servers():
            self._at(server)

    def _at(self, server: Server) -> Shard:
        shard = self._shards.get(str(server))
        if shard is None:
            connect = partial(self._topology.connection, server)
            shard = self._shards[str(server)] = Shard(str(server), self._options, connect, self._refresh)
            if self._tasks is not None:
                self._tasks.start_soon(shard.run)
        return shard

    async def _refresh(self, broken: Shard) -> bool:
        """Move rooms to other shards if their slots have moved; return False if `broken` is not used any more."""
        if not self._topology.sharded:
            return True
        try:
            await self._topology.refresh()
        except (RedisError, OSError):
            return True
        self._connect_all()
        for shard in list(self):
            for room in list(shard.rooms):
                if self.for_tag(room.keys.tag) is not shard:
                    shard.remove(room)
                    self.for_tag(room.keys.tag).add(room)
                    room.connection_lost()  # it asks the new shard again
        listening = self.for_tag(self._node_tag)
        if self._listening is not None and listening is not self._listening:
            self._listening.subscriptions.remove(self._node_channel)
            listening.subscriptions.add(self._node_channel)
            self._listening = listening
        if broken.name in map(str, self._topology.servers()):
            return True
        del self._shards[broken.name]
        broken.drop()
        return False
