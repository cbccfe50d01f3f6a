"""The list of rooms where several servers share them, while rooms open and close here and members leave there."""

from __future__ import annotations

from collections.abc import Sequence

from speakers import Speaker

from chatapi import Limits
from chatapi.brokers.memory import InProcessBroker
from chatapi.core.broker import RoomCount
from chatapi.pending import Pending
from chatapi.testing import ChatKit, VirtualClock


class SharingBroker(InProcessBroker):
    """A broker whose rooms another server shares, where `there` is: who is in each of them."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.there: dict[str, list[str]] = {}
        self.presence = self  # type: ignore[assignment]

    def claim(self, room: str, name: str, session: str, quiet: bool) -> Pending[None]:
        assert self._rooms is not None
        for key in self.there.get(room, ()):
            self._rooms.remote_member_changed(room, key, key)  # type: ignore[attr-defined]
        return Pending.resolved(None)

    def release(self, room: str, key: str, reason: str, quiet: bool) -> None:
        pass

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        return Pending.resolved([RoomCount(room, room, len(names)) for room, names in self.there.items() if names])

    def goes(self, room: str, key: str) -> None:
        assert self._rooms is not None
        self.there[room].remove(key)
        self._rooms.remote_member_changed(room, key, None)  # type: ignore[attr-defined]


def begin() -> tuple[ChatKit, SharingBroker, Speaker]:
    """A member asked for the rooms half a second after the last one here had left `dev`, where Zoe is elsewhere."""
    kit = ChatKit(Limits(rate=0), broker=SharingBroker)
    assert isinstance(kit.broker, SharingBroker)
    kit.broker.there["dev"] = ["zoe"]
    mina, guest = Speaker(kit, "Mina", "lobby").opened(), Speaker(kit, "Guest").opened()
    guest.send("bye")
    kit.wait(0.5)
    assert rooms(mina) == {"dev": 1, "lobby": 1}
    kit.wait(0.4)
    return kit, kit.broker, mina


def rooms(member: Speaker) -> dict[str, int]:
    member.send("rooms")
    frame = member.frame()
    assert frame["type"] == "rooms", frame
    assert frame["count"] == len(frame["rooms"])
    return {room["name"]: room["count"] for room in frame["rooms"]}


def test_a_room_that_was_closed_here_is_listed_while_somebody_is_in_it_elsewhere() -> None:
    kit, _, mina = begin()
    for _ in range(8):
        kit.wait(0.2)
        assert rooms(mina) == {"dev": 1, "lobby": 1}
    assert kit.hub.room("dev") is None


def test_a_room_that_the_last_member_elsewhere_leaves_is_listed_for_a_second_at_most() -> None:
    kit, broker, mina = begin()
    broker.goes("dev", "zoe")
    assert rooms(mina) in ({"dev": 1, "lobby": 1}, {"lobby": 1})
    kit.wait(1.1)
    assert rooms(mina) == {"lobby": 1}


def test_a_member_that_comes_back_into_such_a_room_is_counted_at_once() -> None:
    kit, _, mina = begin()
    Speaker(kit, "Guest").opened()
    assert rooms(mina) == {"dev": 2, "lobby": 1}
