"""What an answer costs the server depends on the answer, not on how many rooms, members or past joins there are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speakers import Speaker

from chatapi import Limits
from chatapi.brokers.memory import InProcessBroker
from chatapi.core.admission import Admission
from chatapi.core.broker import RoomCount, unavailable
from chatapi.core.client import Client
from chatapi.core.entries import AnyEntry, Arrived
from chatapi.core.names import name_key
from chatapi.core.roster import Roster
from chatapi.core.sorted_keys import SortedKeys
from chatapi.errors import Refused
from chatapi.pending import Pending
from chatapi.protocol.text.rendering import TEXT
from chatapi.testing import ChatKit, VirtualClock

FEW, MANY = 120, 1_000
"""Rooms, members and joins: in both cases more than one answer lists."""


class Silent:
    """An outlet that nothing is sent through."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def calls(action: Callable[[], object]) -> int:
    """How many Python functions, generator steps included, and C functions an action calls."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count


def crowd(kit: ChatKit, rooms: int, members: int, past: int) -> None:
    """Rooms with one member each, members in one room, and joins in that room's log with no message between them."""
    for number in range(rooms):
        Admission(kit.hub, "a", f"room{number:05}").enter(Silent(), TEXT, False)  # type: ignore[arg-type]
    for number in range(members):
        Admission(kit.hub, f"m{number:05}", "dev").enter(Silent(), TEXT, False)  # type: ignore[arg-type]
    room = kit.hub.room("dev")
    assert room is not None
    for _ in range(past):
        room.submit(Arrived(0, "x"))
    for client in room.members:
        room.listen(client, reads=False)
    kit.settle()


TEXT_COMMANDS = [
    "/list",
    "/rooms",
    "/help",
    "/history 1",
    "/history 20",
    "/nick other",
    "@m00001 hello",
    "/join room00001",
]
FRAMES: list[dict[str, Any]] = [
    {"type": "members"},
    {"type": "members", "after": "m00002", "limit": 5},
    {"type": "rooms"},
    {"type": "rooms", "after": "room00002", "limit": 5},
    {"type": "history"},
    {"type": "history", "before": 1},
    {"type": "ping"},
    {"type": "rename", "to": "other"},
    {"type": "whisper", "to": "m00001", "text": "hello"},
    {"type": "join", "room": "room00001"},
]


@pytest.fixture(scope="module")
def crowds() -> tuple[ChatKit, ChatKit]:
    """A chat with few of everything, and one with many."""
    few, many = ChatKit(Limits(rate=0)), ChatKit(Limits(rate=0))
    crowd(few, FEW, FEW, FEW)
    crowd(many, MANY, MANY, MANY)
    return few, many


@pytest.mark.parametrize("asked", [*TEXT_COMMANDS, *FRAMES], ids=str)
def test_an_answer_does_not_cost_more_where_there_are_many_rooms_members_and_joins(
    asked: str | dict[str, Any], crowds: tuple[ChatKit, ChatKit]
) -> None:
    found = []
    for kit in crowds:
        json_member = isinstance(asked, dict)
        peer = Speaker(kit, "zz").peer if json_member else kit.member("zz")
        peer.received()
        peer.send(json.dumps(asked) + "\n" if json_member else f"{asked}\n")
        found.append(calls(peer.received))
        peer.end()
        kit.settle()
    few, many = found
    assert many < few + (MANY - FEW) // 2, "the answer looks at every member, every room or every join"


def test_a_newcomer_does_not_cost_more_where_there_are_many_rooms_members_and_joins() -> None:
    kit = ChatKit(Limits(rate=0))
    crowd(kit, MANY, MANY, MANY)
    for protocol in ("text", "json"):
        assert calls(partial(kit.member, f"z{protocol}", protocol=protocol, history=1)) < 2 * MANY


keys = st.text("abc", max_size=3)


@given(st.lists(st.tuples(st.booleans(), keys)), keys, st.integers(0, 5))
def test_sorted_keys_are_a_sorted_set(steps: list[tuple[bool, str]], after: str, most: int) -> None:
    found, model = SortedKeys(), set[str]()
    for add, key in steps:
        (found.add if add else found.discard)(key)
        (model.add if add else model.discard)(key)
        assert len(found) == len(model)
    assert found.after(after, most) == sorted(key for key in model if key > after)[:most]
    assert SortedKeys(key for _, key in steps).after("", 99) == sorted({key for _, key in steps} - {""})


names = st.sampled_from(["Ann", "bob", "Carl", "dora"])
roster_steps = st.tuples(st.sampled_from(["come", "go", "rename", "elsewhere", "nowhere"]), names, names)


@given(st.lists(roster_steps))
def test_a_roster_has_the_names_of_all_who_are_here_and_elsewhere_in_order(steps: list[tuple[str, str, str]]) -> None:
    roster, here, elsewhere = Roster(name_key), dict[str, Client](), set[str]()
    for what, name, other in steps:
        if what == "come":
            if name not in here:
                here[name] = Client(1, name, name, Silent(), TEXT, False, "")  # type: ignore[arg-type]
                here[name].key = name_key(name)
                elsewhere.discard(name)
                roster.add(here[name])
        elif what == "go" and name in here:
            roster.remove(here.pop(name))
        elif what == "rename" and name in here and other not in here and other not in elsewhere:
            here[other] = here.pop(name)
            roster.rename(here[other], other)
        elif what == "elsewhere" and name not in here:
            elsewhere.add(name)
            roster.elsewhere(name.lower(), name)
        elif what == "nowhere":
            elsewhere.discard(name)
            roster.elsewhere(name.lower(), None)
        expected = sorted({*here, *elsewhere}, key=str.lower)
        assert roster.first(9) == expected
        assert roster.first(2, "BOB") == [name for name in expected if name.lower() > "bob"][:2]


# Where several servers share the rooms


class SharedPresence:
    """The `Presence` of a broker that knows of one more server, and answers when it is told to."""

    def __init__(self) -> None:
        self.listed: list[RoomCount] = []
        self.asked: list[Pending[Sequence[RoomCount]]] = []

    def claim(self, room: str, name: str, session: str, quiet: bool) -> Pending[None]:
        return Pending.resolved(None)

    def release(self, room: str, key: str, reason: str, quiet: bool) -> None:
        pass

    def rooms(self) -> Pending[Sequence[RoomCount]]:
        counted: Pending[Sequence[RoomCount]] = Pending()
        self.asked.append(counted)
        return counted

    def answer(self, reason: Refused | None = None) -> None:
        asked, self.asked = self.asked, []
        for counted in asked:
            if reason is None:
                counted.resolve(self.listed)
            else:
                counted.fail(reason)


class SharedBroker(InProcessBroker):
    """A broker whose rooms other servers share."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.presence: SharedPresence = SharedPresence()  # type: ignore[assignment]

    def submit(self, room: str, entries: Sequence[AnyEntry]) -> None:
        super().submit(room, entries)


def shared() -> tuple[ChatKit, SharedPresence]:
    kit = ChatKit(Limits(rate=0), broker=SharedBroker)
    assert isinstance(kit.broker, SharedBroker)
    return kit, kit.broker.presence


def test_the_broker_is_asked_for_the_rooms_of_all_servers_once_a_second_for_all_members() -> None:
    kit, presence = shared()
    one, two = kit.member("one"), Speaker(kit, "two")
    presence.listed = [RoomCount("far", "Far", 7), RoomCount("dev", "dev", 5)]
    one.send("/rooms\n/rooms\n")
    two.send("rooms")
    kit.settle()
    assert len(presence.asked) == 1, "everybody waits for one answer"
    presence.answer()
    assert one.lines() == ["* rooms (2): dev (2), Far (7)"] * 2
    assert two.frames()[-1]["rooms"] == [{"name": "dev", "count": 2}, {"name": "Far", "count": 7}]
    presence.listed = []
    for _ in range(64):
        one.send("/rooms\n")
    assert one.lines() == ["* rooms (2): dev (2), Far (7)"] * 64
    assert not presence.asked
    kit.wait(1.1)
    one.send("/rooms\n")
    kit.settle()
    presence.answer()
    assert one.lines() == ["* rooms (1): dev (2)"]


def test_what_happens_in_the_rooms_of_this_server_is_listed_at_once() -> None:
    kit, presence = shared()
    one = kit.member("one")
    presence.listed = [RoomCount("ops", "ops", 3), RoomCount("dev", "dev", 1)]
    one.send("/rooms\n")
    kit.settle()
    presence.answer()
    assert one.lines() == ["* rooms (2): dev (1), ops (3)"]
    two = kit.member("two", "lab")
    one.send("/rooms\n")
    assert one.lines() == ["* rooms (3): dev (1), lab (1), ops (3)"]
    two.end()
    kit.settle()
    one.send("/rooms\n")
    assert one.lines() == ["* rooms (2): dev (1), ops (3)"]
    kit.hub.rooms["lab"].roster.elsewhere("zoe", "Zoe")  # a member of the other server
    three = kit.member("three", "lab")
    three.end()
    kit.settle()
    one.send("/rooms\n")
    assert one.lines() == ["* rooms (3): dev (1), lab (1), ops (3)"]
    assert not presence.asked


def test_if_the_rooms_are_not_known_all_members_that_asked_are_told_and_the_next_one_asks_again() -> None:
    kit, presence = shared()
    one, two = kit.member("one"), Speaker(kit, "two").opened()
    one.send("/rooms\n")
    two.send("rooms")
    kit.settle()
    presence.answer(unavailable("not now"))
    assert one.lines() == ["* not now"]
    assert two.frame()["code"] == "unavailable"
    one.send("/rooms\n")
    kit.settle()
    presence.answer()
    assert one.lines() == ["* rooms (1): dev (2)"]
