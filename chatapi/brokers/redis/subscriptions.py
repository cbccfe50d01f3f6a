"""The channels that a node listens to on one Redis server, over one connection after the other."""

from __future__ import annotations

from collections import Counter

from coredis import BaseConnection
from coredis.exceptions import MovedError


class Subscriptions:
    """Channels, each with its number of users: a channel is subscribed to while somebody uses it."""

    def __init__(self, *, sharded: bool) -> None:
        self._prefix = "S" if sharded else ""
        self._users: Counter[str] = Counter()
        self._ending: Counter[str] = Counter()  # unsubscriptions that the server has not confirmed
        self._connection: BaseConnection | None = None

    def add(self, channel: str) -> None:
        """Add a user of a channel."""
        self._users[channel] += 1
        if self._users[channel] == 1:
            self._send("SUBSCRIBE", channel)

    def remove(self, channel: str) -> None:
        """Remove a user of a channel."""
        self._users[channel] -= 1
        if self._users[channel]:
            return
        del self._users[channel]
        if self._connection is not None:
            self._ending[channel] += 1
        self._send("UNSUBSCRIBE", channel)

    def connected(self, connection: BaseConnection) -> None:
        """Subscribe to all channels over a new connection."""
        self._connection = connection
        self._ending.clear()
        for channel in self._users:
            self._send("SUBSCRIBE", channel)

    def disconnected(self) -> None:
        """Remember that there is no connection."""
        self._connection = None

    def ended(self, channel: str) -> None:
        """Handle the end of a subscription. Raises `MovedError` if nobody asked for it: the slot is elsewhere now."""
        if self._ending[channel]:
            self._ending[channel] -= 1
        elif channel in self._users:
            raise MovedError("0 elsewhere:0")

    def _send(self, command: str, channel: str) -> None:
        if self._connection is not None and self._connection.usable:
            self._connection.send_command(f"{self._prefix}{command}".encode(), channel)
