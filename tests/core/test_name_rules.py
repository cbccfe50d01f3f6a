"""Names that cannot be seen, and strings that are no names: on every path, and in stores of earlier versions."""

from __future__ import annotations

import ast
import json
import sys
import unicodedata
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest
from executables import ROOT
from speakers import Speaker

import chatapi.core.names
from chatapi import ChatAPI, NotDelivered, Refused
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.brokers.sqlite.store import RoomInfo, Store
from chatapi.cli import server
from chatapi.core.broker_events import BrokerEventHandler
from chatapi.core.entries import Said
from chatapi.core.names import BLANK, IGNORABLE, check_name, check_room, name_key
from chatapi.events import Message, Whisper
from chatapi.testing import ChatKit

CHECKS = pytest.mark.parametrize("check", [check_name, check_room])
BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


# What cannot be seen


def test_the_ignorable_code_points_are_those_of_unicode() -> None:
    assert sum(last - first + 1 for first, last in IGNORABLE) == 4_174  # DerivedCoreProperties.txt says so too
    ends = [code for pair in IGNORABLE for code in pair]
    assert ends == sorted(ends)
    assert set(map(ord, BIDIRECTIONAL)) <= {code for first, last in IGNORABLE for code in range(first, last + 1)}


@CHECKS
def test_no_name_has_an_invisible_character(check: Callable[[str], str]) -> None:
    codes = [*BLANK, *(code for first, last in IGNORABLE for code in range(first, last + 1))]
    for char in map(chr, codes):
        for name in (char, f"{char}Mina", f"Mi{char}na", f"Mina{char}"):
            with pytest.raises(Refused, match=rf"(invisible|unassigned|combining).*U\+{ord(char):04X}"):
                check(name)


@CHECKS
def test_a_name_does_not_start_with_a_combining_mark(check: Callable[[str], str]) -> None:
    marks = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("M")]
    assert len(marks) > 2_000
    for mark in marks:
        with pytest.raises(Refused, match=r"combining mark|invisible"):
            check(f"{mark}Mina")
    assert check("न\u093f") == "न\u093f"  # behind a letter it belongs there
    assert check("q\u0301") == "q\u0301"


# Strings that are no names

OVERLONG = {
    "marks in disorder": "a" + "\u0301" * 15_900 + "\u0316" * 15_900,
    "one that grows": "\ufdfa" * 21_000,
    "plain": "x" * 60_000,
    "one too many": "\u0316\u0301" * 128 + "x",
}
LONGEST = "\u03b1\u0313\u0300\u0345"
"""Four characters that NFC makes one of."""


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long each string was that something has normalised."""
    sizes: list[int] = []

    def normalize(form: Any, text: str) -> str:
        sizes.append(len(text))
        return unicodedata.normalize(form, text)

    class Data:
        category = staticmethod(unicodedata.category)

    Data.normalize = staticmethod(normalize)  # type: ignore[attr-defined]
    monkeypatch.setattr(chatapi.core.names, "unicodedata", Data)
    return sizes


def _json(**fields: Any) -> Callable[[str], str]:
    """A path for a string: a frame of the JSON protocol, the string instead of the dots. Returns the answer."""

    def path(raw: str) -> str:
        kit = ChatKit()
        kit.member("Zoe")
        mina = Speaker(kit).opened()
        frame = {name: raw if value is ... else value for name, value in fields.items()}
        mina.peer.send(json.dumps(frame, ensure_ascii=False) + "\n")
        return json.dumps(mina.frame())

    return path


def _text(form: str) -> Callable[[str], str]:
    def path(raw: str) -> str:
        kit = ChatKit()
        mina = kit.member("Mina")
        mina.send(form.format(raw[:2_000]) + "\n")
        kit.settle()
        return mina.received()

    return path


def _handshake(field: str) -> Callable[[str], str]:
    return lambda raw: ChatKit().member(**{"name": "Mina", "room": "dev", field: raw[:1_000]}).received()


def _telnet(raw: str) -> str:
    kit = ChatKit()
    zoe = kit.connect(telnet=True)
    zoe.send(raw[:2_000] + "\r\n")
    kit.settle()
    return zoe.received()


def _library(call: Callable[[ChatAPI, Any, str], Any]) -> Callable[[str], str]:
    """A path for a string: a call of the library, of which there is the chat and a bot in its room `dev`."""

    def path(raw: str) -> str:
        async def run() -> str:
            chat = ChatAPI()
            async with chat.join("Mina", "dev") as bot:
                try:
                    result = call(chat, bot, raw)
                    return repr(await result if hasattr(result, "__await__") else result)
                except (Refused, NotDelivered) as error:
                    return str(error)

        return anyio.run(run)

    return path


async def _enter(chat: ChatAPI, name: str, room: str) -> None:
    async with chat.join(name, room):
        pass


REFUSED = {
    "whisper frame": (_json(type="whisper", to=..., text="hi"), "not_delivered"),
    "rename frame": (_json(type="rename", to=...), "bad_name"),
    "join frame": (_json(type="join", room=...), "bad_room"),
    "@": (_text("@{} hi"), "nobody here is called"),
    "/msg": (_text("/msg {} hi"), "nobody here is called"),
    "/nick": (_text("/nick {}"), "characters; at most 32 are allowed"),
    "/join": (_text("/join {}"), "characters; at most 64 are allowed"),
    "handshake name": (_handshake("name"), "bad_name"),
    "handshake room": (_handshake("room"), "bad_room"),
    "nickname": (_telnet, "characters; at most 32 are allowed"),
    "ChatAPI.room": (_library(lambda chat, bot, raw: chat.room(raw)), "None"),
    "ChatAPI.join name": (_library(lambda chat, bot, raw: _enter(chat, raw, "dev")), "bad_name"),
    "ChatAPI.join room": (_library(lambda chat, bot, raw: _enter(chat, "Zoe", raw)), "bad_room"),
    "ChatAPI.history": (_library(lambda chat, bot, raw: chat.history(raw)), "bad_room"),
    "ChatAPI.delete": (_library(lambda chat, bot, raw: chat.delete(raw, 1, "Mina")), "bad_room"),
    "Room.member": (_library(lambda chat, bot, raw: chat.rooms[0].member(raw)), "None"),
    "Bot.whisper": (_library(lambda chat, bot, raw: bot.whisper(raw, "hi")), "nobody here is called"),
    "Bot.rename": (_library(lambda chat, bot, raw: bot.rename(raw)), "bad_name"),
}
ORDERED = {
    "members frame": (_json(type="members", after=...), lambda page: json.loads(page)["members"]),
    "rooms frame": (_json(type="rooms", after=...), lambda page: [room["name"] for room in json.loads(page)["rooms"]]),
    "Room.first_members": (_library(lambda chat, bot, raw: chat.rooms[0].first_members(9, raw)), ast.literal_eval),
}


@pytest.mark.parametrize("path", REFUSED)
def test_a_string_that_is_no_name_is_refused_and_costs_nothing(normalised: list[int], path: str) -> None:
    call, answer = REFUSED[path]
    for what, raw in OVERLONG.items():
        assert answer in call(raw), what
    assert max(normalised, default=0) <= 5_000


@pytest.mark.parametrize("path", ORDERED)
def test_a_page_goes_on_behind_the_beginning_of_a_string_that_is_no_name(normalised: list[int], path: str) -> None:
    call, names = ORDERED[path]
    everything = names(call(""))
    assert everything
    for what, raw in OVERLONG.items():
        assert names(call(raw)) == [name for name in everything if name_key(name) > name_key(raw[:256])], what
    assert max(normalised, default=0) <= 5_000


def test_nothing_else_normalises() -> None:
    for path in (ROOT / "chatapi").rglob("*.py"):
        assert path.name == "names.py" or "unicodedata" not in path.read_text(), path


@pytest.mark.parametrize("raw", [*OVERLONG.values(), "\ufdfa" * 256, "\u0390" * 256])
def test_a_key_is_bounded(raw: str) -> None:
    assert len(name_key(raw)) <= 4_609


def test_no_room_is_found_under_a_string_that_begins_like_its_key() -> None:
    kit = ChatKit()
    kit.member("Mina", "㏂" * 64)
    assert kit.hub.room("a.m." * 64) is not None
    assert kit.hub.room("a.m." * 64 + "x") is None


@pytest.mark.parametrize("form", [LONGEST, "\u1f82"])
def test_a_look_up_takes_every_spelling_that_the_door_takes(form: str) -> None:
    kit = ChatKit()
    name, room = LONGEST * 32, LONGEST * 64
    zoe = kit.member(name, room)
    mina = Speaker(kit, "Mina", room).opened()
    mina.send("whisper", to=form * 32, text="hi")
    assert mina.frame()["type"] == "ack"
    bob = kit.member("Bob", form * 64)
    bob.send(f"@{form * 32} hi\n/msg {form * 32} hi\n")
    kit.settle()
    assert zoe.lines() == ["* Mina whispers: hi", "* Bob whispers: hi", "* Bob whispers: hi"]
    mina.frames()
    mina.send("members", after=form * 32)
    assert mina.frame()["members"] == []
    mina.send("rooms", after=form * 64)
    assert mina.frame()["rooms"] == []
    found = kit.hub.room(form * 64)
    assert found is not None
    assert found.member(form * 32) is not None


def test_a_name_whose_key_is_longer_than_any_name_is_found_by_that_key() -> None:
    kit = ChatKit()
    name = "\ufdfa" * 32
    zoe = kit.member(name, name)
    key = name_key(name)
    assert len(key) > 256
    others = BrokerEventHandler(kit.hub)  # where other servers share the room
    assert others.deliver_whisper(key, key, Whisper(1, "Mina", "hi")) == ""
    kit.settle()
    assert zoe.lines() == ["* Mina whispers: hi"]
    others.remote_member_changed(key, "bob", "Bob")
    others.member_renamed(key, "bob", "\ufdfa")
    others.member_renamed(key, name_key("\ufdfa"), "Ann")
    room = kit.hub.room(name)
    assert room is not None
    assert room.first_members(9) == ["Ann", name]
    others.remote_member_changed(key, name_key("\ufdfa" * 31), "\ufdfa" * 31)
    others.member_renamed(key, name_key("\ufdfa" * 31), "Bea")
    assert room.first_members(9) == ["Ann", "Bea", name]
    others.name_lost(key, key, "name_lost")
    kit.settle()
    assert zoe.lines() == ["* name_lost: another member took your name while this server was cut off"]


# Names that an earlier version has allowed

BEFORE = ["Mina\ufe0f", "\u3164", "\u0301x", "\u115f", "⠀", "Mina\U000e0100", "\u0378"]


@pytest.mark.parametrize("name", BEFORE)
def test_a_name_of_before_is_known_and_cannot_be_taken(name: str) -> None:
    assert check_name(name, kept=True) == name
    assert check_room(name, kept=True) == name
    with pytest.raises(Refused):
        check_name(name)
    with pytest.raises(Refused):
        check_room(name)


@pytest.mark.parametrize("name", ["", "Mi na", "a:b", "a,b", "x\x1b", "\u202e", "\u200b", "\ud800", "@x", "x" * 33])
def test_what_never_was_a_name_is_none_in_a_store(name: str) -> None:
    with pytest.raises(Refused):
        check_name(name, kept=True)


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A store that an earlier version has written: in a room and by a member that cannot be any more."""
    path = tmp_path / "older.db"
    with closing(Store(str(path))) as store:
        store.open()
        for name in ("dev\ufe0f", "dev"):
            said = Said(0, "Mina\ufe0f", b"hello\n", 1)
            said.seq, said.ts = 1, 10
            store.restore(RoomInfo(0, name_key(name), name, "one-life", 0, 0, 1, 1, 10), iter([said]))
    return path


def _run(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    try:
        code = server.main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else -1
    out, err = capfd.readouterr()
    return code, out + err


def test_the_commands_read_a_store_of_an_earlier_version(
    older: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out = _run(capfd, "rooms", older)
    assert code == 0
    assert sorted(json.loads(line)["name"] for line in out.splitlines()) == ["dev", "dev\ufe0f"]
    assert _run(capfd, "check", older) == (0, "ok: 2 rooms, 2 messages\n")
    exported = tmp_path / "dev.ndjson"
    assert _run(capfd, "export", older, "dev\ufe0f", exported) == (0, "")
    new = tmp_path / "new.db"
    code, out = _run(capfd, "import", new, "dev\ufe0f", exported)
    assert code == 2
    assert "invisible character (U+FE0F)" in out
    assert _run(capfd, "import", new, "dev", exported) == (0, "imported 'dev', seq 1 to 1\n")
    code, out = _run(capfd, "export", new, "dev")
    assert code == 0
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["dev", "Mina\ufe0f"]


def test_lines_from_somewhere_else_bring_no_such_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "lines"
    lines.write_text(json.dumps({"name": "Mina\ufe0f", "text": "hi"}))
    code, out = _run(capfd, "import", tmp_path / "new.db", "dev", lines)
    assert code == 2
    assert "line 1: 'name': the name has an invisible character (U+FE0F)" in out


@pytest.mark.anyio
async def test_a_server_reads_a_store_of_an_earlier_version(older: Path) -> None:
    async with ChatAPI(broker=SQLiteBroker(str(older))) as chat, chat.join("Zoe", "dev") as bot:
        assert (await chat.history("dev")).messages == (Message(1, 10, "Mina\ufe0f", "hello"),)
        await bot.post("hi")
        with pytest.raises(Refused, match="invisible character"):
            await chat.history("dev\ufe0f")
