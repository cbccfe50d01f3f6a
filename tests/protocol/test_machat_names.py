"""Names and rooms as in MaChat in Go (docs/how-to/coming-from-go.md), on every path that they come by."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest

from chatapi.core.hooks import Hooks
from chatapi.core.names import GO, OURS, name_key, naming_of
from chatapi.testing import ChatKit, Peer

Path = Callable[[ChatKit, str, str], Peer]
"""Somebody takes a name in a room in one way."""


def by_text(kit: ChatKit, name: str, room: str) -> Peer:
    return kit.member(name, room)


def by_json(kit: ChatKit, name: str, room: str) -> Peer:
    return kit.member(name, room, protocol="json")


def by_rename_frame(kit: ChatKit, name: str, room: str) -> Peer:
    peer = kit.member("before", room, protocol="json")
    peer.send(json.dumps({"type": "rename", "to": name}) + "\n")
    return peer


def by_join_frame(kit: ChatKit, name: str, room: str) -> Peer:
    peer = kit.member(name, "elsewhere", protocol="json")
    peer.send(json.dumps({"type": "join", "room": room}) + "\n")
    return peer


def by_commands(kit: ChatKit, name: str, room: str) -> Peer:
    peer = kit.member("before", "elsewhere", commands=True)
    peer.send(f"/nick {name}\n/join {room}\n")
    return peer


def by_telnet(kit: ChatKit, name: str, room: str) -> Peer:
    assert room == "The Lobby"
    peer = kit.connect(telnet=True)
    peer.send(f"{name}\r\n")
    return peer


def by_a_hook(kit: ChatKit, name: str, room: str) -> Peer:
    kit.hub.hooks = Hooks(lambda asked: asked.model_copy(update={"name": name, "room": room}))
    peer = kit.member("asked", "elsewhere")
    kit.hub.hooks = Hooks()
    return peer


PATHS = [by_text, by_json, by_rename_frame, by_join_frame, by_commands, by_telnet, by_a_hook]


NAMES = ["Mina A.", "a:b,c", "@Mina", "*", "MINA", "x" * 256, "Rene\u0301", "ＭＩＮＡ", "mi\u200bna", "á" * 128]


@pytest.mark.parametrize("path", PATHS)
def test_any_name_is_taken_as_it_is(path: Path) -> None:
    for name in NAMES:
        kit = ChatKit(machat=True, lobby="The Lobby")
        zoe = kit.member("mina", "The Lobby", protocol="json")  # which is nobody else's name
        kit.member("mina", "the lobby")  # which is another room
        zoe.lines()
        peer = path(kit, name, "The Lobby")
        kit.settle()
        peer.lines()
        is_json = peer.connection.client is not None and peer.connection.client.session is not None
        peer.send('{"type":"message","text":"hello"}\n' if is_json else "hello\n")
        said = [json.loads(line) for line in zoe.lines()]
        assert [(frame["name"], frame["text"]) for frame in said if frame["type"] == "message"] == [(name, "hello")]
        zoe.send('{"type":"members"}\n{"type":"rooms","after":""}\n{"type":"whisper","to":' + json.dumps(name))
        zoe.send(',"text":"psst"}\n')
        members, rooms, ack = (json.loads(line) for line in zoe.lines())
        assert (members["members"], ack["type"]) == (sorted(["mina", name]), "ack")
        assert {"name": "The Lobby", "count": 2} in rooms["rooms"]
        assert [line for line in peer.lines() if "psst" in line]


@pytest.mark.parametrize("path", [path for path in PATHS if path is not by_telnet])
def test_any_room_is_taken_as_it_is(path: Path) -> None:
    for room in ("Dev Team", "a:b,c", "/dev", "DEV", "x" * 256, "Rene\u0301", "\u00a0"):
        if path is by_commands and room.isspace():
            continue  # what follows a command has no blanks at its ends
        kit = ChatKit(machat=True)
        zoe = kit.member("Zoe", room)
        kit.member("Zoe", "dev")
        path(kit, "Mina", room)
        kit.settle()
        place = kit.hub.room(room)
        assert place is not None
        assert (place.name, place.first_members(9)) == (room, ["Mina", "Zoe"])
        zoe.send("hello\n")
        assert "Zoe:hello" in zoe.lines()


@pytest.mark.parametrize("path", PATHS)
def test_no_name_makes_a_line_or_an_escape_sequence(path: Path) -> None:
    for name, shown in (
        ("Mi\nna", "Mina"),
        ("Mi\rna", "Mina"),
        ("\x1b[1mMina\t\x7f\x85", "[1mMina"),
        ("\nZoe:hi", "Zoe:hi"),
    ):
        if path in (by_telnet, by_commands) and "\n" in name:
            continue  # a line is all that can be given there
        kit = ChatKit(machat=True, lobby="The Lobby")
        zoe = kit.member("Zoe", "The Lobby")
        peer = path(kit, name, "The Lobby")
        kit.settle()
        assert peer.connection.client is not None
        is_json = peer.connection.client.session is not None
        peer.send('{"type":"message","text":"hello"}\n' if is_json else "hello\n")
        assert zoe.received() == f"{shown}:hello\n"
        assert kit.member(shown, "The Lobby").lines()[0].startswith('{"type":"error","code":"name_taken"')


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["x" * 257, "á" * 128 + "x"])
def test_a_name_of_more_bytes_than_its_bound_is_refused(path: Path, name: str) -> None:
    kit = ChatKit(machat=True, lobby="The Lobby")
    peer = path(kit, name, "The Lobby")
    kit.settle()
    assert all(client.name in ("before", "asked") for room in kit.hub.rooms.values() for client in room.members)
    # what a hook has made of a handshake is the program's fault, not the member's
    assert ("257 bytes; at most 256" in peer.received()) is (path is not by_a_hook)


@pytest.mark.parametrize("path", [by_text, by_json, by_rename_frame, by_join_frame, by_a_hook])
def test_the_empty_name_and_the_empty_room_are_like_any_other(path: Path) -> None:
    kit = ChatKit(machat=True)
    zoe = kit.member("Zoe", "", protocol="json")
    zoe.lines()
    peer = path(kit, "", "")
    peer.received()
    for asked in ({"type": "members", "limit": 1}, {"type": "members", "after": ""}, {"type": "rooms", "limit": 1}):
        zoe.send(json.dumps(asked) + "\n")
    answers = [json.loads(line) for line in zoe.lines()]
    first, second, rooms = (frame for frame in answers if frame["type"] in ("members", "rooms"))
    assert (first["members"], first["next"], second["members"]) == ([""], "", ["Zoe"])
    assert rooms["rooms"] == [{"name": "", "count": 2}]
    zoe.send('{"type":"whisper","to":"","text":"psst"}\n')
    assert json.loads(zoe.lines()[-1])["type"] == "ack"
    assert "psst" in peer.received()
    assert "name_taken" in kit.member("", "").received()


def test_a_nickname_is_not_empty() -> None:
    zoe = ChatKit(machat=True).connect(telnet=True)
    zoe.send("\r\n")
    assert "at least one character" in zoe.received()
    zoe.send(" \r\nZoe A. \r\n")
    assert "hello Zoe A.;" in zoe.received()


def test_a_slow_member_whose_name_is_like_an_address_does_not_harm_members_at_that_address() -> None:
    kit = ChatKit(machat=True)
    kit.member("@10.9.9.1")
    kit.member("Zoe", address="10.9.9.1:1000")
    room = kit.hub.room("dev")
    assert room is not None
    slow, zoe = room.members
    room.evict(slow)
    assert kit.hub.slow_penalties.has(slow, kit.clock.monotonic())
    assert not kit.hub.slow_penalties.has(zoe, kit.clock.monotonic())


def test_a_room_of_go_and_one_of_ours_never_have_the_same_key() -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, sys.maxunicode + 1)]))
    assert not {"G", "o:"} & {key for key in map(name_key, every) if key.startswith("G")}
    assert {naming_of(GO.room_key(room)) for room in ("", "dev", "Go:dev")} == {GO}
    assert {naming_of(OURS.room_key(room)) for room in ("dev", "Go：dev", "GO", "Go")} == {OURS}
