"""The limits of what one connection sends, each at its limit and one beyond it, on every path that leads there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

import pytest
from ways import enter_by_telnet, frame, frames, kit, on_a_loop

from chatapi import ChatAPI, Limits, Message, TextTooLong, Whisper
from chatapi.core.hooks import Hooks
from chatapi.limits import TICK
from chatapi.testing import ChatKit, Peer

# line_bytes

LINES = Limits(line_bytes=64)


class Said(NamedTuple):
    """What came of a text: what was said, what the other member heard, what the sender was told."""

    text: str
    heard: list[str]
    told: str


Way = Callable[[int], Said]
"""Says something of so many bytes, as the limit counts them, in one way."""


def body(size: int) -> str:
    """A text of so many bytes, and about half as many characters."""
    return "é" * (size // 2) + "x" * (size % 2)


def by_line(prefix: str = "", end: str = "\n", *, telnet: bool = False, bytewise: bool = False) -> Way:
    def say(size: int) -> Said:
        chat = kit(LINES)
        mina = enter_by_telnet(chat, "Mina") if telnet else chat.member("Mina")
        zoe = chat.member("Zoe")
        mina.received()
        text = body(size - len(prefix))
        line = f"{prefix}{text}{end}".encode()
        for at in range(len(line)) if bytewise else ():
            mina.send(line[at : at + 1])
            chat.settle()
        if not bytewise:
            mina.send(line)
        if not end:
            mina.end()
        heard = [line.partition(":")[2].strip().lstrip("/") for line in zoe.lines()]
        return Said(text, heard, mina.received())

    return say


def by_frame(sent: Callable[[str], str]) -> Way:
    def say(size: int) -> Said:
        chat = kit(LINES)
        mina, zoe = chat.member("Mina", protocol="json"), chat.member("Zoe")
        mina.received()
        text = body(size)
        mina.send(sent(text))
        heard = [line.partition(":")[2].strip() for line in zoe.lines()]
        return Said(text, heard, "".join(told["detail"] for told in frames(mina) if told["type"] == "error"))

    return say


def by_bot(verb: str) -> Way:
    async def say(size: int) -> Said:
        chat, text = ChatAPI(LINES), body(size)
        async with chat.join("Mina", "dev", reads=False) as mina, chat.join("Zoe", "dev") as zoe:
            try:
                if verb == "whisper":
                    await mina.whisper("Zoe", text)
                elif verb == "post":
                    await mina.post(text)
                else:
                    mina.post_nowait(text)
            except TextTooLong as error:
                return Said(text, [], str(error))
            event = await anext(zoe)
            assert isinstance(event, Message | Whisper)
            return Said(text, [event.text], "")

    return lambda size: on_a_loop(lambda: say(size))


def by_hook(protocol: str) -> Way:
    """A hook makes it out of a short line or message."""

    def say(size: int) -> Said:
        text = body(size)
        chat = kit(LINES, hooks=Hooks(on_message=lambda client, _: text))
        mina, zoe = chat.member("Mina", protocol=protocol), chat.member("Zoe")
        mina.received()
        mina.send("short\n" if protocol == "text" else frame("message", text="short"))
        heard = [line.partition(":")[2] for line in zoe.lines()]
        return Said(text, heard, "" if heard else mina.received())

    return say


WAYS: dict[str, Way] = {
    "a line": by_line(),
    "a line with a carriage return": by_line(end="\r\n"),
    "a line that comes byte by byte": by_line(end="\r\n", bytewise=True),
    "a line that the stream's end ends": by_line(end=""),
    "a line by telnet": by_line(end="\r\n", telnet=True),
    "a line with a doubled slash": by_line("//"),
    "a whisper": by_line("@Zoe "),
    "a whisper by /msg": by_line("/msg Zoe "),
    "a message": by_frame(lambda text: frame("message", text=text)),
    "a message with an id": by_frame(lambda text: frame("message", text=text, id="1")),
    "a message of escapes": by_frame(lambda text: json.dumps({"type": "message", "text": text}) + "\n"),
    "a message behind others": by_frame(lambda text: frame("message", text="") + frame("message", text=text)),
    "a whisper in JSON": by_frame(lambda text: frame("whisper", to="Zoe", text=text)),
    "Bot.post": by_bot("post"),
    "Bot.post_nowait": by_bot("post_nowait"),
    "Bot.whisper": by_bot("whisper"),
    "a line that a hook changed": by_hook("text"),
    "a message that a hook changed": by_hook("json"),
}


@pytest.mark.parametrize("way", WAYS)
def test_line_bytes_at_the_limit(way: str) -> None:
    said = WAYS[way](64)
    assert said.heard == [said.text]
    assert "at most" not in said.told


@pytest.mark.parametrize("way", WAYS)
def test_line_bytes_one_beyond(way: str) -> None:
    said = WAYS[way](65)
    assert said.heard == []
    assert "65 bytes; at most 64 are allowed" in said.told


# frame_bytes


def ping(size: int) -> bytes:
    """A frame of so many bytes."""
    return b'{"type":"ping","ref":7'.ljust(size - 1) + b"}"


def answers(sent: list[bytes], *, ends: bool = False) -> list[dict[str, object]]:
    chat = kit(Limits(frame_bytes=1024, rate=0))
    mina = chat.member("Mina", protocol="json")
    mina.received()
    for data in sent:
        mina.send(data)
        chat.settle()
    if ends:
        mina.end()
    return frames(mina)


CUTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda line: [line + b"\n"],
    "with a carriage return": lambda line: [line + b"\r\n"],
    "behind another frame": lambda line: [ping(30) + b"\n" + line + b"\n"],
    "behind a message": lambda line: [frame("message", text="hi").encode() + line + b"\n"],
    "byte by byte": lambda line: [line[i : i + 1] for i in range(len(line))] + [b"\n"],
    "byte by byte, with a carriage return": lambda line: [line[i : i + 1] for i in range(len(line))] + [b"\r", b"\n"],
    "without an end": lambda line: [line],
}


@pytest.mark.parametrize("cut", CUTS)
def test_frame_bytes_at_the_limit(cut: str) -> None:
    found = answers(CUTS[cut](ping(1024)), ends=cut == "without an end")
    assert found[-1] == {"type": "pong", "ref": 7}


@pytest.mark.parametrize("cut", CUTS)
def test_frame_bytes_one_beyond(cut: str) -> None:
    found = answers([*CUTS[cut](ping(1025)), *([] if cut == "without an end" else [ping(30) + b"\n"])], ends=True)
    (error,) = [answer for answer in found if answer["type"] == "error"]
    assert error["code"] == "frame_too_large"
    assert error["detail"] == "the frame has 1,025 bytes; at most 1,024 are allowed"
    if cut != "without an end":
        assert found[-1] == {"type": "pong", "ref": 7}  # the next frame is intact


# handshake_bytes


def opening(size: int, protocol: str = "text") -> bytes:
    fields = json.dumps({"name": "Mina", "room": "dev", "protocol": protocol}).encode()
    return fields[:-1].ljust(size - 1) + b"}"


def shake(opening: bytes, *, bytewise: bool, blanks: bytes) -> tuple[ChatKit, Peer]:
    chat = kit(Limits(handshake_bytes=128))
    peer = chat.connect()
    for data in [blanks + opening] if not bytewise else [blanks, *(opening[i : i + 1] for i in range(len(opening)))]:
        if data:
            peer.send(data)
            chat.settle()
    return chat, peer


def is_in(chat: ChatKit, name: str = "Mina", room: str = "dev") -> bool:
    place = chat.hub.room(room)
    return place is not None and place.member(name) is not None


@pytest.mark.parametrize("protocol", ["text", "json"])
@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("blanks", [b"", b"\r\n" * 100])
def test_handshake_bytes_at_the_limit(protocol: str, bytewise: bool, blanks: bytes) -> None:
    chat, _ = shake(opening(128, protocol), bytewise=bytewise, blanks=blanks)
    assert is_in(chat)


@pytest.mark.parametrize("protocol", ["text", "json"])
@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("blanks", [b"", b"\r\n" * 100])
def test_handshake_bytes_one_beyond(protocol: str, bytewise: bool, blanks: bytes) -> None:
    chat, peer = shake(opening(129, protocol), bytewise=bytewise, blanks=blanks)
    assert not is_in(chat)
    (refusal,) = frames(peer)
    assert refusal["code"] == "handshake_too_large"
    assert "more than 128 bytes" in refusal["detail"]


# handshake_seconds, nickname_seconds

DRIPS = ["nothing", "a byte each second", "blanks each second"]


def dawdle(chat: ChatKit, peer: Peer, drip: str, seconds: float, data: bytes) -> bytes:
    """Let time pass, while one byte each second comes, or none; what is left of the data."""
    at = 0
    while at < int(seconds):
        if drip == "a byte each second":
            peer.send(data[:1])
            data = data[1:]
        elif drip == "blanks each second":
            peer.send(b" ")
        chat.wait(1)
        at += 1
    chat.wait(seconds - at)
    return data


@pytest.mark.parametrize("drip", DRIPS)
def test_handshake_seconds_at_the_limit(drip: str) -> None:
    chat = kit(Limits(handshake_seconds=5))
    peer = chat.connect()
    peer.send(dawdle(chat, peer, drip, 5 - TICK, opening(60)))
    chat.settle()
    assert is_in(chat)
    chat.wait(2 * TICK)
    assert is_in(chat)


@pytest.mark.parametrize("drip", DRIPS)
def test_handshake_seconds_one_beyond(drip: str) -> None:
    chat = kit(Limits(handshake_seconds=5))
    peer = chat.connect()
    peer.send(dawdle(chat, peer, drip, 5 + TICK, opening(60)))
    (refusal,) = frames(peer)
    assert refusal["code"] == "handshake_timeout"
    assert "within 5 s" in refusal["detail"]
    assert not is_in(chat)


NICKNAMES = ["nothing", "a byte each second", "blanks each second", "one that is taken each second"]


def dawdle_by_telnet(seconds: float, drip: str) -> tuple[ChatKit, Peer]:
    chat = kit(Limits(nickname_seconds=5))
    chat.member("Zoe")
    peer = chat.connect(telnet=True)
    if drip == "one that is taken each second":
        for _ in range(int(seconds)):
            peer.send("Zoe\r\n")
            chat.wait(1)
        chat.wait(seconds - int(seconds))
        rest = b"Mina\r\n"
    else:
        rest = dawdle(chat, peer, drip, seconds, b"Minamina\r\n")
    peer.send(rest)
    chat.settle()
    return chat, peer


@pytest.mark.parametrize("drip", NICKNAMES)
def test_nickname_seconds_at_the_limit(drip: str) -> None:
    chat, peer = dawdle_by_telnet(5 - TICK, drip)
    assert "* hello Mina" in peer.received()
    chat.wait(2 * TICK)
    assert not peer.transport.ended


@pytest.mark.parametrize("drip", NICKNAMES)
def test_nickname_seconds_one_beyond(drip: str) -> None:
    chat, peer = dawdle_by_telnet(5 + TICK, drip)
    assert "* handshake_timeout: " in peer.received()
    assert peer.transport.ended
    room = chat.hub.room("dev")
    assert room is not None
    assert [member.name for member in room.members] == ["Zoe"]
