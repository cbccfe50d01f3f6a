"""Each way into a room keeps to the same rules: handshakes, ``/join``, the frame ``join``, `ChatAPI.join`, resumes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from ways import enter_by_telnet, frame, frames, kit, on_a_loop

from chatapi import ChatAPI, Limits, Refused
from chatapi.brokers.memory import InProcessBroker
from chatapi.core.broker import Past, unavailable
from chatapi.pending import Pending
from chatapi.testing import ChatKit, LateBroker, Peer

DETAILS = {
    "already in": "name_taken",
    "is full": "room_full",
    "no room can be added": "server_full",
    "no disk": "unavailable",
    "too many clients are waiting": "unavailable",
    "shutting down": "draining",
}
"""What a refusal says to a person."""


def told(text: str) -> str:
    """The code of the refusal that a member of the text protocol was told; empty if it was told of none."""
    return next((code for detail, code in DETAILS.items() if re.search(detail, text)), "")


def handshake(peer: Peer, **fields: Any) -> str:
    peer.send(json.dumps(fields))
    [*_, answer] = frames(peer) or [{}]
    return str(answer.get("code", ""))


def by_text(chat: ChatKit) -> str:
    return handshake(chat.connect(), name="Ann", room="dev")


def by_json(chat: ChatKit) -> str:
    return handshake(chat.connect(), name="Ann", room="dev", protocol="json")


def by_telnet(chat: ChatKit) -> str:
    return told(enter_by_telnet(chat, "Ann").received())


def by_command(chat: ChatKit) -> str:
    ann = chat.member("Ann", "other")
    ann.send("/join dev\n")
    chat.settle()
    return told(ann.received())


def by_frame(chat: ChatKit) -> str:
    ann = chat.member("Ann", "other", protocol="json")
    ann.received()
    ann.send(frame("join", room="dev"))
    chat.settle()
    [answer] = frames(ann)
    return str(answer.get("code", ""))


def by_program(chat: ChatKit) -> str:
    async def join() -> str:
        program = ChatAPI()
        program._hub = chat.hub
        try:
            async with program.join("Ann", "dev"):
                return ""
        except Refused as refused:
            return refused.code

    return str(on_a_loop(join))


def by_resume(chat: ChatKit) -> str:
    """A member of another room that comes back into this one."""
    ann = chat.member("Ann", "other", protocol="json")
    session = frames(ann)[0]["session"]
    ann.transport.reset()
    chat.settle()
    return handshake(chat.connect(), name="Ann", room="dev", protocol="json", resume={"session": session})


NEWCOMERS = [by_text, by_json, by_telnet, by_program]
WAYS = [*NEWCOMERS, by_command, by_frame, by_resume]


class Unable(InProcessBroker):
    """A broker that cannot open the room `dev`."""

    def open(self, room: str, name: str, epoch: str, messages: int, max_bytes: int) -> Pending[Past]:
        if room == "dev":
            return Pending.failed(unavailable("no disk"))
        return super().open(room, name, epoch, messages, max_bytes)


def is_in(chat: ChatKit) -> bool:
    room = chat.hub.rooms.get("dev")
    return room is not None and room.member("ann") is not None


@pytest.mark.parametrize("way", WAYS)
def test_a_room_that_has_a_place_is_entered(way: Callable[[ChatKit], str]) -> None:
    chat = kit(Limits(rooms=2, room_members=2))
    chat.member("Mina", "dev")
    assert way(chat) == ""
    assert is_in(chat) is (way is not by_program)  # its member leaves at the end of the block


@pytest.mark.parametrize("way", WAYS)
def test_a_room_that_is_not_open_yet_is_opened(way: Callable[[ChatKit], str]) -> None:
    chat = kit(Limits())
    assert way(chat) == ""
    assert is_in(chat) is (way is not by_program)


@pytest.mark.parametrize("way", WAYS)
def test_a_name_that_somebody_has_is_refused(way: Callable[[ChatKit], str]) -> None:
    chat = kit(Limits())
    chat.member("ANN", "dev")
    assert way(chat) == "name_taken"


@pytest.mark.parametrize("way", WAYS)
def test_a_room_that_is_full_is_refused(way: Callable[[ChatKit], str]) -> None:
    chat = kit(Limits(room_members=1))
    chat.member("Mina", "dev")
    assert way(chat) == "room_full"
    assert not is_in(chat)


@pytest.mark.parametrize("way", WAYS)
def test_one_room_too_many_is_refused(way: Callable[[ChatKit], str]) -> None:
    chat = kit(Limits(rooms=2))
    chat.member("Mina", "one")
    chat.member("Zoe", "other")
    assert way(chat) == "server_full"
    assert chat.hub.rooms.keys() == {"one", "other"}


@pytest.mark.parametrize("way", WAYS)
def test_a_room_that_the_broker_cannot_open_is_refused(way: Callable[[ChatKit], str]) -> None:
    chat = kit(Limits(), broker=Unable)
    assert way(chat) == "unavailable"
    assert (chat.hub.rooms.keys() <= {"other"}, chat.hub.arriving) == (True, 0)


@pytest.mark.parametrize("way", NEWCOMERS)
def test_nobody_comes_in_while_the_server_shuts_down(way: Callable[[ChatKit], str]) -> None:
    chat = kit(Limits())
    chat.hub.draining = True
    assert way(chat) == "draining"


@pytest.mark.parametrize("way", [way for way in WAYS if way not in (by_program, by_command, by_frame, by_resume)])
def test_a_room_that_the_broker_opens_later_is_entered_then(way: Callable[[ChatKit], str]) -> None:
    broker: list[LateBroker] = []

    def late(clock: Any) -> LateBroker:
        broker.append(LateBroker(clock, opens_late=True))
        return broker[0]

    chat = kit(Limits(), broker=late)
    assert way(chat) == ""
    assert (is_in(chat), chat.hub.arriving) == (False, 1)
    broker[0].release()
    chat.settle()
    assert (is_in(chat), chat.hub.arriving) == (True, 0)


@pytest.mark.parametrize("way", WAYS)
def test_no_more_wait_for_the_broker_than_may_be_connected(way: Callable[[ChatKit], str]) -> None:
    chat = kit(Limits())
    chat.member("Zoe", "other")
    chat.hub.arriving = chat.hub.limits.connections
    assert way(chat) == "unavailable"
    assert not is_in(chat)
