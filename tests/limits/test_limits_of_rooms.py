"""The limits of rooms, members and what is shown of a room, each at its limit and one beyond it, on every path."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from executables import Peer as Connected
from executables import Server, eventually, handshake
from speakers import Speaker
from ways import enter_by_telnet, kit, on_a_loop

from chatapi import ChatAPI, Limits, Refused
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.core.admission import Admission
from chatapi.limits import TICK
from chatapi.testing import ChatKit, Peer

Enter = Callable[[ChatKit, str], str]
"""Somebody named Late wants to come into a room in one way; returns the code of the refusal, or nothing."""


def refusal(peer: Peer) -> str:
    """The code of the refusal that this connection got, if it got one."""
    told = peer.lines()
    if not peer.transport.ended:
        return ""
    if told[0].startswith("{"):
        return str(json.loads(told[0])["code"])
    return told[-1].removeprefix("Nickname: ").removeprefix("* ").partition(":")[0]


def by_handshake(protocol: str) -> Enter:
    return lambda chat, room: refusal(chat.member("Late", room, protocol=protocol))


def by_telnet(chat: ChatKit, room: str) -> str:
    assert room == "dev"
    return refusal(enter_by_telnet(chat, "Late"))


def by_join(chat: ChatKit, room: str) -> str:
    late = chat.member("Late", "elsewhere")
    late.send(f"/join {room}\n")
    told = late.received()
    if "you are now in" in told:
        return ""
    late.send("/list\n")
    assert late.received() == "* in elsewhere (1): Late\n"  # it has stayed where it was
    return "room_full" if "is full" in told else "server_full" if "no room can be added" in told else told


def by_join_frame(chat: ChatKit, room: str) -> str:
    late = Speaker(chat, "Late", "elsewhere").opened()
    late.send("join", room=room)
    told = late.frame()
    late.send("members")
    assert "Late" in late.frame()["members"]  # wherever that is now
    return str(told["code"]) if told["type"] == "error" else ""


def by_resume(chat: ChatKit, room: str) -> str:
    """It was in another room, and lost its connection there; it comes back into this one."""
    late = Speaker(chat, "Late", "elsewhere").opened()
    late.cut("reset")
    back = Speaker(chat, "Late", room, resume=late.resume())
    return refusal(back.peer) if back.peer.transport.ended else ""


def by_program(chat: ChatKit, room: str) -> str:
    late = chat.member("Late", "elsewhere").connection.client
    assert late is not None
    try:
        Admission.of_member(chat.hub, late, room).move(late)
    except Refused as refused:
        return str(refused.code)
    return ""


ENTRANCES: dict[str, Enter] = {
    "a text handshake": by_handshake("text"),
    "a JSON handshake": by_handshake("json"),
    "telnet": by_telnet,
    "/join": by_join,
    "a join frame": by_join_frame,
    "a resume from elsewhere": by_resume,
    "the program's own verb": by_program,
}


def names(chat: ChatKit, room: str) -> list[str]:
    place = chat.hub.room(room)
    return [] if place is None else sorted(member.name for member in place.members)


def join(chat: ChatAPI, name: str, room: str) -> str:
    """The code with which a member of the program's own is refused."""

    async def main() -> str:
        try:
            async with chat.join(name, room):
                return ""
        except Refused as refused:
            return str(refused.code)

    return str(on_a_loop(main))


# room_members


@pytest.mark.parametrize("way", ENTRANCES)
def test_room_members_at_the_limit(way: str) -> None:
    chat = kit(Limits(room_members=3))
    chat.member("Mina"), chat.member("Zoe")
    assert ENTRANCES[way](chat, "dev") == ""
    assert names(chat, "dev") == ["Late", "Mina", "Zoe"]


@pytest.mark.parametrize("way", ENTRANCES)
def test_room_members_one_beyond(way: str) -> None:
    chat = kit(Limits(room_members=2))
    mina = chat.member("Mina")
    chat.member("Zoe")
    assert ENTRANCES[way](chat, "dev") == "room_full"
    assert names(chat, "dev") == ["Mina", "Zoe"]
    mina.send("/bye\n")
    mina.received()
    assert refusal(chat.member("Tom")) == ""  # there is a place again


def test_room_members_count_bots_and_members_whose_name_is_reserved() -> None:
    chat = kit(Limits(room_members=2))
    chat.member("Zoe")
    mina = Speaker(chat, "Mina").opened()
    mina.cut("reset")
    assert refusal(chat.member("Tom")) == "room_full"
    back = Speaker(chat, "Mina", resume=mina.resume())
    assert back.frame()["recovered"] is True  # its own place
    assert join(ChatAPI(Limits(room_members=1)), "Mina", "dev") == ""

    async def two() -> str:
        api = ChatAPI(Limits(room_members=1))
        async with api.join("Mina", "dev"):
            with pytest.raises(Refused, match="members allowed: 1") as refused:
                async with api.join("Zoe", "dev"):
                    pass
        return str(refused.value.code)

    assert on_a_loop(two) == "room_full"


# rooms

MOVES = ("/join", "a join frame", "a resume from elsewhere", "the program's own verb")
"""Those are in a room of their own first."""


def full(way: str, rooms: int, there: int) -> ChatKit:
    """A chat that has so many rooms with somebody in them when Late wants to come into another one."""
    chat = kit(Limits(rooms=rooms))
    for number in range(there - (way in MOVES)):
        chat.member("Mina", f"room{number}")
    return chat


@pytest.mark.parametrize("way", ENTRANCES)
def test_rooms_at_the_limit(way: str) -> None:
    chat = full(way, rooms=3, there=2)
    assert ENTRANCES[way](chat, "dev") == ""
    assert names(chat, "dev") == ["Late"]


@pytest.mark.parametrize("way", ENTRANCES)
def test_rooms_one_beyond(way: str) -> None:
    chat = full(way, rooms=2, there=2)
    assert ENTRANCES[way](chat, "dev") == "server_full"
    assert chat.hub.room("dev") is None
    assert refusal(chat.member("Zoe", "room0")) == ""  # a room that is there takes members


@pytest.mark.parametrize("verb", ["join", "history"])
def test_rooms_bound_what_the_program_opens(verb: str) -> None:
    async def opened(rooms: int) -> str:
        chat = ChatAPI(Limits(rooms=rooms))
        async with chat.join("Mina", "one"):
            try:
                if verb == "history":
                    await chat.history("two")
                else:
                    async with chat.join("Mina", "two"):
                        pass
            except Refused as refused:
                return str(refused.code)
            return ""

    assert on_a_loop(lambda: opened(2)) == ""
    assert on_a_loop(lambda: opened(1)) == "server_full"


def test_the_room_that_has_been_empty_for_longest_gives_way() -> None:
    chat = kit(Limits(rooms=3))
    for room in ("first", "second", "third"):
        mina = chat.member("Mina", room)
        mina.send(f"said in {room}\n/bye\n")
        mina.received()
        chat.wait(1)
    again = chat.member("Zoe", "first")  # it was needed: now the second one has been empty for longest
    again.send("/bye\n")
    again.received()
    chat.wait(1)
    chat.member("Tom", "fourth")
    chat.member("Tom", "fifth")
    assert chat.member("Late", "first", history=9).lines() == ["Mina:said in first"]
    assert refusal(chat.member("Late", "third")) == "server_full"


# connections


def opened(server: Server, door: str) -> Connected:
    """A connection at one of the doors, which says nothing."""
    return server.connect(to=server.telnet[0] if door == "telnet" else None)


def finds_a_place(server: Server) -> bool:
    peer = server.connect()
    peer.send(handshake("Late", "lounge", echo=True) + b"\nhello\n")
    there = peer.line() == "Late:hello"
    peer.close()
    return there


@pytest.mark.parametrize(("door", "other"), [("text", "telnet"), ("telnet", "text")])
def test_connections_at_the_limit(door: str, other: str) -> None:
    with Server("-connections", "3", "-telnet", "127.0.0.1:0") as server:
        opened(server, other)
        mina = server.member("Mina", "lounge", notices=True)
        late = opened(server, door)
        late.send("Late\r\n" if door == "telnet" else handshake("Late", "lounge"))
        assert mina.line() == "* Late joined"


@pytest.mark.parametrize(("door", "other"), [("text", "telnet"), ("telnet", "text")])
def test_connections_one_beyond(door: str, other: str) -> None:
    with Server("-connections", "2", "-handshake-seconds", "600", "-telnet", "127.0.0.1:0") as server:
        silent = opened(server, other)
        mina = server.member("Mina", "lounge", echo=True)
        late = opened(server, door)
        told = late.rest().decode()
        assert "server_full" in told
        assert "connections allowed: 2" in told
        mina.send("still here\n")
        assert mina.line() == "Mina:still here"
        silent.close()
        late.close()
        eventually(lambda: finds_a_place(server), "the place of a connection that has ended stays taken")


# history

History = Callable[[ChatKit, int], Sequence[str]]
"""What somebody is shown that asks for so many messages in one way."""


def told(peer: Peer) -> list[str]:
    return [line.partition(":")[2] for line in peer.lines()]


def said_in(answer: dict[str, object]) -> list[str]:
    messages = answer["messages"]
    assert isinstance(messages, list)
    return [message["text"] for message in messages]


def by_text_handshake(chat: ChatKit, asked: int) -> Sequence[str]:
    return told(chat.member("Late", history=asked))


def by_json_handshake(chat: ChatKit, asked: int) -> Sequence[str]:
    return [heard["text"] for heard in Speaker(chat, "Late", history=asked).frames() if heard["type"] == "message"]


def by_resume_that_fails(chat: ChatKit, asked: int) -> Sequence[str]:
    late = Speaker(chat, "Late").opened()
    late.cut("end")
    back = Speaker(chat, "Late", resume=late.resume(epoch="another"), history=asked)
    heard = back.frames()
    assert heard[0]["recovered"] is False
    return [one["text"] for one in heard if one["type"] == "message"]


def by_command(chat: ChatKit, asked: int) -> Sequence[str]:
    late = chat.member("Late")
    late.send(f"/history {asked}\n")
    return told(late)


def by_telnet_command(chat: ChatKit, asked: int) -> Sequence[str]:
    late = enter_by_telnet(chat, "Late")
    late.received()
    late.send(f"/history {asked}\r\n")
    return [text.strip() for text in told(late)]


def by_frame(chat: ChatKit, asked: int) -> Sequence[str]:
    late = Speaker(chat, "Late").opened()
    late.send("history", limit=asked)
    return said_in(late.frame())


HISTORIES: dict[str, History] = {
    "a text handshake": by_text_handshake,
    "a JSON handshake": by_json_handshake,
    "a resume that fails": by_resume_that_fails,
    "/history": by_command,
    "/history by telnet": by_telnet_command,
    "a history frame": by_frame,
}


def talked(messages: int, limits: Limits) -> ChatKit:
    """A room in which so many messages were said."""
    chat = kit(limits)
    mina = chat.member("Mina")
    for number in range(messages):
        mina.send(f"{number}\n")
        chat.settle()
    return chat


@pytest.mark.parametrize("way", HISTORIES)
def test_history_at_the_limit(way: str) -> None:
    chat = talked(5, Limits(history=5))
    assert HISTORIES[way](chat, 100) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("way", HISTORIES)
def test_history_one_beyond(way: str) -> None:
    chat = talked(6, Limits(history=5))
    assert HISTORIES[way](chat, 100) == ["1", "2", "3", "4", "5"]


def test_no_more_than_a_thousand_messages_are_replayed_unless_the_server_says_otherwise() -> None:
    chat = talked(1001, Limits(rate=0))
    for way in (by_text_handshake, by_json_handshake, by_command):
        assert len(way(chat, 5000)) == 1000
        for peer in chat.peers[1:]:
            peer.end()
        chat.wait(6)


@pytest.mark.anyio
@pytest.mark.parametrize("messages", [5, 6])
async def test_history_bounds_what_a_room_loads_from_a_store(messages: int, tmp_path: Path) -> None:
    """What it does not load it fetches page by page."""

    def life() -> ChatKit:
        return kit(Limits(history=5), broker=lambda clock: SQLiteBroker(tmp_path / "chat.db", clock=clock))

    before = life()
    async with before.running():
        mina = before.member("Mina")
        await before.settled()
        for number in range(messages):
            mina.send(f"{number}\n")
            await before.settled()
    after = life()
    async with after.running():
        late = after.member("Late", history=100)
        await after.settled()
        assert told(late) == [str(number) for number in range(messages)][-5:]
        room = after.hub.room("dev")
        assert room is not None
        assert room.oldest == messages - 5 + 1


@pytest.mark.parametrize("said", [5, 6])
def test_history_bounds_what_a_bot_reads_first(said: int) -> None:
    async def main() -> list[str]:
        chat = ChatAPI(Limits(history=5))
        async with chat.join("Mina", "dev") as mina:
            for number in range(said):
                await mina.post(str(number))
            async with chat.join("Late", "dev", history=100) as late:
                await mina.post("live")
                texts: list[str] = []
                while not texts or texts[-1] != "live":
                    texts.append(getattr(await anext(late), "text", "joined"))
                return texts[:-1]

    assert [text for text in on_a_loop(main) if text != "joined"] == [str(number) for number in range(said)][-5:]


# announce

CHANGES = ["join", "leave", "rename", "lose"]


def announced(protocol: str, change: str, others: int) -> list[str]:
    """What a member hears of a change in a room that has it and so many others, the one who changes among them."""
    chat = kit(Limits(announce=3, reserve=1))
    watcher = chat.member("Watcher", protocol=protocol, notices=True)
    joins = change == "join"
    for number in range(others - 1):
        chat.member(f"m{number}")
    mina = chat.member("Mina", protocol="json" if change == "lose" else "text") if not joins else None
    watcher.received()
    if mina is None:
        chat.member("Mina")
    elif change == "lose":
        mina.transport.reset()
        chat.wait(2)
    else:
        mina.send({"leave": "/bye\n", "rename": "/nick Mia\n"}[change])
    return [line for line in watcher.lines() if "Mina" in line]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("protocol", ["text", "json"])
def test_announce_at_the_limit(protocol: str, change: str) -> None:
    assert len(announced(protocol, change, 2)) == 1


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("protocol", ["text", "json"])
def test_announce_one_beyond(protocol: str, change: str) -> None:
    assert announced(protocol, change, 3) == []


# keep


def remembered(seconds: float) -> list[str]:
    """What somebody is shown that comes so long after the last one has left."""
    chat = kit(Limits(keep=60))
    mina = chat.member("Mina")
    mina.send("hello\n/bye\n")
    mina.received()
    chat.wait(seconds)
    return chat.member("Late", history=9).lines()


def test_keep_at_the_limit() -> None:
    assert remembered(60 - TICK) == ["Mina:hello"]


def test_keep_one_beyond() -> None:
    assert remembered(60 + TICK) == []
