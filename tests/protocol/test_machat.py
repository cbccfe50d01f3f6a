"""`-machat`: the ways of MaChat in Go, at every door, on every path; transcripts of docs/how-to/coming-from-go.md."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from redis_servers import RedisServer, needs_redis

from chatapi import Bot, Broker, ChatAPI, Limits, Message, NoSuchMessage, NotDelivered, Refused
from chatapi.brokers.redis.broker import RedisBroker
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.cli import server, store
from chatapi.core.handshake import Handshake
from chatapi.core.hooks import Hooks
from chatapi.core.names import GO, OURS, name_key, naming_of
from chatapi.testing import ChatKit, Peer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "coming-from-go.md"


# The transcripts


class Row(NamedTuple):
    case: str
    input: list[str]
    go: list[str]
    switched: list[str]
    default: list[str]


def rows() -> list[Row]:
    """The table of transcripts; a cell is what stands in its backticks, or what the cell to its left has."""
    _, _, text = PAGE.read_text(encoding="utf-8").partition("\n## Transcripts\n")
    found = []
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| case |"):
            case, *cells = (cell.strip() for cell in line[1:-1].split("|"))
            read: list[list[str]] = []
            for cell in cells:
                same = cell in ("*as Go*", "*as with -machat*")
                lines = read[-1] if same else re.findall("`([^`]*)`", cell)
                assert lines or cell == "nothing", f"{case}: {cell}"
                read.append(lines)
            found.append(Row(case, *read))
    return found


ROWS = rows()


def raw(text: str) -> bytes:
    """The bytes that a cell stands for."""
    text = re.sub(r"x\{([\d,]+)\}", lambda many: "x" * int(many[1].replace(",", "")), text)
    return re.sub(
        rb"\\(n|r|t|x[0-9a-f]{2})", lambda escape: ast.literal_eval(f"b'{escape[0].decode()}'"), text.encode()
    )


class Transcript:
    """Plays the input of a row, and compares all that every connection gets."""

    def __init__(self, kit: ChatKit) -> None:
        self._kit = kit
        self._peers: dict[str, Peer] = {}
        self._got: dict[str, bytes] = {}

    def play(self, steps: list[str]) -> None:
        for step in steps:
            who, _, what = step.partition("> ")
            if who not in self._peers:
                self._peers[who], self._got[who] = self._kit.connect(), b""
            if what == "(end)":
                self._peers[who].end()
            elif what != "(connects)":
                self._peers[who].send(raw(what))
            self._kit.settle()
            for name, peer in self._peers.items():
                while taken := peer.transport.take():
                    self._got[name] += taken
                    self._kit.settle()

    def check(self, expected: list[str]) -> None:
        ended = {line.partition("< ")[0] for line in expected if line.endswith("< (end)")}
        told = dict(line.split("< ", 1) for line in expected if not line.endswith("< (end)"))
        assert {name for name, peer in self._peers.items() if peer.transport.ended} == ended
        for name, got in self._got.items():
            pattern = re.escape(raw(told.get(name, ""))).replace("…".encode(), b"[^\n]*")
            assert re.fullmatch(pattern, got), f"{name} got {got[:300]!r}"
        assert told.keys() <= self._got.keys()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_the_transcripts_with_the_switch_are_true(row: Row) -> None:
    transcript = Transcript(ChatKit(machat=True))
    transcript.play(row.input)
    transcript.check(row.switched)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case)
def test_the_transcripts_without_it_are_true(row: Row) -> None:
    transcript = Transcript(ChatKit())
    transcript.play(row.input)
    transcript.check(row.default)


def test_there_are_transcripts_and_every_kind_of_cell() -> None:
    assert len(ROWS) == len({row.case for row in ROWS}) > 50
    assert sum(row.switched == row.go for row in ROWS) > 25
    assert sum(row.default != row.switched for row in ROWS) > 25


@pytest.mark.parametrize(
    "expected",
    [["M< Mina:hi\\n"], ["M< Mina:ho\\n", "Z< Mina:hi\\n"], ["M< Mina:hi\\n", "Z< Mina:hi\\n", "Z< (end)"], []],
)
def test_a_transcript_that_is_not_true_fails(expected: list[str]) -> None:
    transcript = Transcript(ChatKit(machat=True))
    transcript.play(['M> {"name":"Mina"}', 'Z> {"name":"Zoe"}', "M> hi\\n"])
    transcript.check(["M< Mina:hi\\n", "Z< Mina:h…\\n"])
    with pytest.raises(AssertionError):
        transcript.check(expected)


# The switch, and what wins over it


def started(monkeypatch: pytest.MonkeyPatch, *arguments: str, **environment: str) -> ChatAPI:
    """The chat that the server would run."""
    chats: list[ChatAPI] = []

    def run(chat: ChatAPI, *_: object) -> int:
        chats.append(chat)
        return 0

    for name in [name for name in os.environ if name.startswith("MACHAT_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(server, "_run", run)
    monkeypatch.setattr(server, "_raise_descriptor_limit", lambda: None)
    assert server.main(arguments) == 0
    return chats[0]


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, (False, True, 8192, OURS)),
        (["-machat"], {}, (True, False, 65_535, GO)),
        (["--machat"], {}, (True, False, 65_535, GO)),
        (["-machat=true"], {}, (True, False, 65_535, GO)),
        ([], {"MACHAT_MACHAT": "1"}, (True, False, 65_535, GO)),
        (["-machat=false"], {"MACHAT_MACHAT": "1"}, (False, True, 8192, OURS)),
        ([], {"MACHAT_MACHAT": ""}, (False, True, 8192, OURS)),
        (["-machat", "-echo=false"], {}, (False, False, 65_535, GO)),
        (["-machat", "-no-commands=false"], {}, (True, True, 65_535, GO)),
        (["-machat", "-line-bytes", "100"], {}, (True, False, 100, GO)),
        (["-machat", "-rate", "10"], {}, (True, False, 65_535, GO)),
        (["-machat"], {"MACHAT_ECHO": "0", "MACHAT_NO_COMMANDS": "no"}, (False, True, 65_535, GO)),
        (["-machat"], {"MACHAT_ECHO": "", "MACHAT_LINE_BYTES": "8192"}, (True, False, 8192, GO)),
        (["-echo", "-no-commands"], {}, (True, False, 8192, OURS)),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else str(value),
)
def test_the_flag_restores_all_of_it_and_what_is_said_more_precisely_wins(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str], expected: tuple[object, ...]
) -> None:
    chat = started(monkeypatch, *arguments, **environment)
    hub = chat._hub
    assert (hub.echo, hub.commands, chat.limits.line_bytes, hub.naming) == expected


def test_in_a_program_too_what_is_said_more_precisely_wins() -> None:
    kit = ChatKit(Limits(line_bytes=64), machat=True, echo=False, commands=True)
    mina = kit.member("Mina A.")
    zoe = kit.member("Zoe", echo=True, commands=False)
    zoe.send("/list\n")
    mina.send("/list\n" + "x" * 65 + "\n")
    assert zoe.lines() == ["Zoe:/list"]
    assert mina.lines() == [
        "* in dev (2): Mina A., Zoe",
        "* your line has 65 bytes; at most 64 are allowed; it was not sent",
        "Zoe:/list",
    ]
    assert ChatAPI(Limits(rate=1), machat=True).limits.line_bytes == 65_535
    assert ChatAPI(Limits(rate=1)).limits.line_bytes == 8192


# Names and rooms, on every path


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
@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_taken_as_it_is(path: Callable[[ChatKit, str, str], Peer], name: str) -> None:
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
@pytest.mark.parametrize("room", ["Dev Team", "a:b,c", "/dev", "DEV", "x" * 256, "Rene\u0301", "\u00a0"])
def test_any_room_is_taken_as_it_is(path: Callable[[ChatKit, str, str], Peer], room: str) -> None:
    if path is by_commands and room.isspace():
        return  # what follows a command has no blanks at its ends
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
@pytest.mark.parametrize(
    ("name", "shown"),
    [("Mi\nna", "Mina"), ("Mi\rna", "Mina"), ("\x1b[1mMina\t\x7f\x85", "[1mMina"), ("\nZoe:hi", "Zoe:hi")],
)
def test_no_name_makes_a_line_or_an_escape_sequence(
    path: Callable[[ChatKit, str, str], Peer], name: str, shown: str
) -> None:
    if path in (by_telnet, by_commands) and "\n" in name:
        return  # a line is all that can be given there
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
def test_a_name_of_more_bytes_than_its_bound_is_refused(path: Callable[[ChatKit, str, str], Peer], name: str) -> None:
    kit = ChatKit(machat=True, lobby="The Lobby")
    peer = path(kit, name, "The Lobby")
    kit.settle()
    assert all(client.name in ("before", "asked") for room in kit.hub.rooms.values() for client in room.members)
    # what a hook has made of a handshake is the program's fault, not the member's
    assert ("257 bytes; at most 256" in peer.received()) is (path is not by_a_hook)


@pytest.mark.parametrize("path", [by_text, by_json, by_rename_frame, by_join_frame, by_a_hook])
def test_the_empty_name_and_the_empty_room_are_like_any_other(path: Callable[[ChatKit, str, str], Peer]) -> None:
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


def test_a_slow_member_whose_name_is_like_an_address_does_not_harm_whoever_has_that_address() -> None:
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


# Blank lines


@pytest.mark.parametrize("hook", [None, lambda client, text: None], ids=["no hook", "a hook"])
@pytest.mark.parametrize("door", ["text", "telnet"])
def test_a_blank_line_is_a_message_at_every_door_for_lines(door: str, hook: Any) -> None:
    kit = ChatKit(machat=True, lobby="dev", hooks=Hooks(None, hook))
    reader = kit.member("Ada", protocol="json")
    zoe = kit.member("Zoe")
    mina = kit.connect(telnet=door == "telnet")
    mina.send("Mina\r\n" if door == "telnet" else '{"name":"Mina","room":"dev"}\n')
    mina.received(), reader.lines()
    mina.send("one\n\n\r\ntwo\n\x07\n")
    colon = ": " if door == "telnet" else ":"
    assert zoe.lines() == ["Mina:one", "Mina:", "Mina:", "Mina:two", "Mina:"]
    assert mina.lines() == [f"Mina{colon}one", f"Mina{colon}", f"Mina{colon}", f"Mina{colon}two", f"Mina{colon}"]
    assert [json.loads(line)["text"] for line in reader.lines()] == ["one", "", "", "two", ""]
    assert kit.member("Eve", history=3).lines() == ["Mina:", "Mina:two", "Mina:"]


def test_a_json_member_cannot_say_an_empty_text() -> None:
    kit = ChatKit(machat=True)
    mina = kit.member("Mina", protocol="json")
    mina.lines()
    mina.send('{"type":"message","text":""}\n\n{"type":"ping"}\n')
    assert [json.loads(line).get("code", "pong") for line in mina.lines()] == ["empty_text", "pong"]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_line_end_belongs_to_the_handshake_that_it_comes_with(ending: str) -> None:
    mina = ChatKit(machat=True).connect()
    mina.send('{"name":"Mina"}' + ending)
    assert mina.received() == ""
    mina.send("\r\n")
    assert mina.received() == "Mina:\n"


# Members of a program's own, and a chat's own calls


@pytest.mark.anyio
async def test_a_program_s_own_members_and_look_ups_keep_to_the_same_rules() -> None:
    chat = ChatAPI(machat=True)
    async with (
        chat,
        chat.join("", "") as nobody,
        chat.join("Mina A.", "dev team"),
        chat.join("Mina A.", "Dev Team") as mina,
        chat.join("mina a.", "Dev Team") as other,
    ):
        await nobody.post("hello")
        await mina.post("hello")
        room = chat.room("Dev Team")
        assert room is not None
        assert [client.name for client in room.members] == ["Mina A.", "mina a."]
        assert room.member("Mina A.") == mina.client
        assert room.member("MINA A.") is None
        assert chat.room("DEV TEAM") is None
        await mina.whisper("mina a.", "psst")
        with pytest.raises(NotDelivered):
            await mina.whisper("MINA A.", "psst")
        with pytest.raises(Refused, match="already in"):
            await other.rename("Mina A.")
        await other.rename("Zoe\n:")
        assert other.client.name == "Zoe:"
        for name in ("x" * 257, "\ud800"):
            with pytest.raises(Refused, match=r"bytes|surrogate"):
                await other.rename(name)
        assert [message.text for message in (await chat.history("")).messages] == ["hello"]
        gone = await chat.delete("Dev Team", 1, "The Moderator")
        assert (gone.name, [m.text for m in (await chat.history("Dev Team")).messages]) == ("The Moderator", [""])
        assert (await chat.history("dev team")).messages == ()
    with pytest.raises(Refused, match="257 bytes"):
        await chat.history("x" * 257)


def test_who_is_asked_by_a_hook_sees_the_names_of_go() -> None:
    seen: list[Handshake] = []
    kit = ChatKit(machat=True, hooks=Hooks(seen.append))  # type: ignore[arg-type]
    kit.connect().send('{"name": "Mina A."}')
    kit.settle()
    assert [(asked.name, asked.room) for asked in seen] == [("Mina A.", "")]


def test_a_json_member_comes_back_under_its_name() -> None:
    kit = ChatKit(machat=True)
    mina = kit.member("Mina A.", "Dev Team", protocol="json")
    welcome = json.loads(mina.lines()[0])
    mina.transport.reset()
    zoe = kit.member("Zoe", "Dev Team")
    zoe.send("\n")
    assert "name_taken" in kit.member("Mina A.", "Dev Team").received()
    assert kit.member("mina a.", "Dev Team").received() == ""
    resume = {key: welcome[key] for key in ("epoch", "seq", "ts", "session")}
    back = kit.member("Mina A.", "Dev Team", protocol="json", resume=resume)
    welcome, missed = (json.loads(line) for line in back.lines()[:2])
    assert (welcome["name"], welcome["room"], welcome["recovered"]) == ("Mina A.", "Dev Team", True)
    assert (missed["name"], missed["text"]) == ("Zoe", "")


# Where rooms are kept


ROOMS = ["Dev", "dev", "", "Dev Team", "a/b:c}", "x" * 256]


async def say_something(broker: Broker, *, machat: bool, rooms: list[str]) -> None:
    async with ChatAPI(machat=machat, broker=broker) as chat:
        for room in rooms:
            async with chat.join("Mina", room, reads=False) as mina:
                await mina.post(f"hello {room}")


async def found(broker: Broker, *, machat: bool, rooms: list[str]) -> list[list[str]]:
    async with ChatAPI(machat=machat, broker=broker) as chat:
        return [[message.text for message in (await chat.history(room)).messages] for room in rooms]


@pytest.mark.anyio
async def test_a_file_keeps_rooms_of_both_kinds_apart(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "chat.db")
    await say_something(SQLiteBroker(path), machat=True, rooms=ROOMS)
    assert await found(SQLiteBroker(path), machat=False, rooms=["dev"]) == [[]]
    await say_something(SQLiteBroker(path), machat=False, rooms=["dev"])
    await say_something(SQLiteBroker(path), machat=False, rooms=["DEV"])
    assert await found(SQLiteBroker(path), machat=True, rooms=ROOMS) == [[f"hello {room}"] for room in ROOMS]
    assert await found(SQLiteBroker(path), machat=False, rooms=["Dev"]) == [["hello dev", "hello DEV"]]
    assert store.main(["check", path]) == 0
    assert store.main(["rooms", path]) == 0
    told = capfd.readouterr().out.splitlines()
    assert told[0] == "ok: 7 rooms, 8 messages"
    listed = [json.loads(line) for line in told[1:]]
    assert sorted(room["name"] for room in listed if room.get("machat")) == sorted(ROOMS)
    assert [room["name"] for room in listed if "machat" not in room] == ["dev"]


async def _with_blank_lines(kit: ChatKit, *rooms: str) -> None:
    async with kit.running():
        for room in rooms:
            mina = kit.connect()
            mina.send(json.dumps({"name": "", "room": room}))
            await kit.settled()
            mina.send("one\n\n\ntwo\n")
            await kit.settled()
            assert mina.lines() == [":one", ":", ":", ":two"]


@pytest.mark.parametrize("room", ["Dev Team", "", "Dev"])
def test_rooms_of_go_with_blank_lines_are_sound_and_go_through_an_export(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], room: str
) -> None:
    path, copy = str(tmp_path / "chat.db"), str(tmp_path / "copy.db")
    anyio.run(_with_blank_lines, ChatKit(machat=True, broker=lambda clock: SQLiteBroker(path, clock=clock)), room, "x")
    for file in (path, copy):
        assert store.main(["export", "-machat", file, room, f"{file}.ndjson"]) == 0
        assert store.main(["check", file]) == 0
        assert capfd.readouterr().out.startswith("ok: ")
        if file is path:
            assert store.main(["import", "--machat", copy, room, f"{path}.ndjson"]) == 0
            assert capfd.readouterr().out.startswith("imported")
    assert Path(f"{copy}.ndjson").read_bytes() == Path(f"{path}.ndjson").read_bytes()
    texts = anyio.run(lambda: found(SQLiteBroker(copy), machat=True, rooms=[room]))
    assert texts == [["one", "", "", "two"]]


async def _replayed_after_a_restart(path: str) -> list[str]:
    def kit() -> ChatKit:
        return ChatKit(machat=True, broker=lambda clock: SQLiteBroker(path, clock=clock))

    await _with_blank_lines(kit(), "dev")
    async with kit().running() as again:
        zoe = again.connect()
        zoe.send('{"name":"Zoe","room":"dev","history":10}')
        await again.settled()
        return zoe.lines()


async def _deleted(path: str, seq: int) -> int:
    async with ChatAPI(machat=True, broker=SQLiteBroker(path)) as chat:
        return (await chat.delete("dev", seq, "moderator")).target


@pytest.mark.usefixtures("capfd")
def test_what_a_file_cannot_tell_of_a_blank_line_is_as_it_is_documented(tmp_path: Path) -> None:
    path = str(tmp_path / "chat.db")
    assert anyio.run(_replayed_after_a_restart, path) == [":one", ":two"]
    with pytest.raises(NoSuchMessage):
        anyio.run(_deleted, path, 2)
    assert anyio.run(_deleted, path, 1) == 1
    assert store.main(["check", path]) == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["export", "{file}", "Dev Team"], "white space"),
        (["export", "{file}", "Dev"], "has no room 'Dev'"),
        (["export", "-machat", "{file}", "dev"], "did you mean 'Dev'"),
        (["import", "-machat", "{file}", "Dev", "{lines}"], "has a room 'Dev' already"),
        (["import", "new.db", "Dev", "{lines}"], "'name': the name is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_sub_command_without_the_switch_looks_for_rooms_of_its_own_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(_with_blank_lines, ChatKit(machat=True, broker=lambda clock: SQLiteBroker("go.db", clock=clock)), "Dev")
    assert store.main(["export", "-machat", "go.db", "Dev", "dev.ndjson"]) == 0
    with pytest.raises(SystemExit):
        store.main([argument.format(file="go.db", lines="dev.ndjson") for argument in arguments])
    assert why in capfd.readouterr().err


@pytest.mark.anyio
@needs_redis
async def test_servers_that_share_a_redis_keep_to_the_rules_of_go() -> None:
    with RedisServer() as redis:

        def chat(*, machat: bool = True) -> ChatAPI:
            return ChatAPI(machat=machat, broker=RedisBroker(redis.url))

        async with chat() as one, chat() as two, chat(machat=False) as ours, AsyncExitStack() as stack:
            mina = await stack.enter_async_context(one.join("Mina A.", "Dev Team"))
            other = await stack.enter_async_context(two.join("mina a.", "Dev Team"))
            nobody = await stack.enter_async_context(two.join("", "Dev Team"))
            theirs = await stack.enter_async_context(one.join("Mina", "dev"))
            apart = await stack.enter_async_context(ours.join("Mina", "dev"))
            for bot in (mina, nobody, other):
                await _until(bot, ["", "Mina A.", "mina a."])
            for speaker, chat_of_it in ((theirs, one), (apart, ours)):
                await speaker.post("hello")
                room = chat_of_it.room("dev")
                assert room is not None
                assert (len(room), room.seq) == (1, 1)
            with pytest.raises(Refused, match=r"'Mina A\.'"):
                await stack.enter_async_context(two.join("Mina A.", "Dev Team"))
            for name in ("mina a.", ""):
                await mina.whisper(name, "psst")
            await nobody.post("hello")
            while not isinstance(event := await anext(mina), Message):
                pass
            assert (event.name, event.text) == ("", "hello")
            await nobody.rename("Zoe:\t1")
            await _until(mina, ["Mina A.", "Zoe:1", "mina a."])
            await nobody.rename("")
            await other.rename("Zoe B.")
            await _until(mina, ["", "Mina A.", "Zoe B."])
            nobody.leave()
            await _until(mina, ["Mina A.", "Zoe B."])


async def _until(bot: Bot, names: list[str]) -> None:
    """Read what a member is told until these are the names in its room."""
    room = bot.client.room
    assert room is not None
    with anyio.fail_after(10):
        while room.first_members(9) != names:
            await anext(bot)
