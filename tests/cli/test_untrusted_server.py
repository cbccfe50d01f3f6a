"""The example client with a server that means no good: what it sends, in any field, reaches the terminal as text."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import pytest
from scripted import LONG, Peer, line

from chatapi import Message, Whisper
from chatapi.addresses import Address
from chatapi.cli import client
from chatapi.cli.flags import fail
from chatapi.cli.screen import Screen, say

if sys.platform == "win32":
    pytest.skip("these tests give the client a keyboard the POSIX way", allow_module_level=True)

EVIL = "MARK\x1b[2J\x1b]0;t\x07\x9b31m\r\x08\x7f\x85\x0b\x0c\nFAKE:line\r\nFAKE:more\u2028\u2029\u202e\u2067\u202atext"
HERE: dict[str, Any] = {
    "name": "Mina", "room": "dev", "session": "key", "epoch": "e", "seq": 0, "ts": 0, "members": ["Mina"], "count": 1,
    "recovered": None, "limits": {},
}  # fmt: skip
BACK = HERE | {"recovered": True}
GOODBYE = {"code": "bye", "detail": "goodbye", "reconnect": False, "after": 0}
SPOKEN = {"seq": 1, "ts": 1, "name": "Zoe", "text": "hi"}

FRAMES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    # what happens: the type of its frame, the fields, and which of them are shown
    "message": ("message", SPOKEN, ("name", "text")),
    "whisper": ("whisper", {"ts": 1, "name": "Zoe", "text": "hi"}, ("name", "text")),
    "joined": ("joined", {"seq": 0, "name": "Zoe"}, ("name",)),
    "left": ("left", {"seq": 0, "name": "Zoe", "reason": "kicked"}, ("name", "reason")),
    "renamed": ("renamed", {"seq": 0, "name": "Zoe", "to": "Zo"}, ("name", "to")),
    "own name": ("renamed", {"seq": 0, "name": "Mina", "to": "Zo"}, ("name", "to")),
    "deleted": ("deleted", {"seq": 1, "ts": 1, "name": "Zoe", "target": 1}, ("name",)),
    "notice": ("notice", {"code": "unavailable", "detail": "the disk is full"}, ("code", "detail")),
    "of a later version": ("news", {"seq": 1, "ts": 1, "detail": "?"}, ()),
    "welcome": ("welcome", HERE, ("name", "room")),
    "refusal": ("error", {"code": "name_taken", "detail": "it is taken"}, ("code", "detail")),
    "bye": ("bye", GOODBYE | {"code": "kicked"}, ("code", "detail")),
    "flood": ("bye", {"code": "flood", "detail": "too many", "reconnect": True, "after": 0}, ("detail",)),
    "lost": ("bye", {"code": "draining", "detail": "it stops", "reconnect": True, "after": 0}, ("detail",)),
    "recovered": ("welcome", BACK, ("name", "room")),
    "gap": ("welcome", HERE | {"recovered": False, "reason": "trimmed"}, ("name", "room", "reason")),
    "moved": ("welcome", HERE | {"room": "ops"}, ("name", "room", "members")),
    "members": ("members", {"members": ["Mina", "Zoe"], "count": 2}, ("members",)),
    "rooms": ("rooms", {"rooms": [{"name": "dev", "count": 2}], "count": 1}, ("rooms",)),
    "history": ("history", {"messages": [SPOKEN], "more": False}, ("messages",)),
    "error": ("error", {"code": "empty_text", "detail": "nothing is left"}, ("detail",)),
}
TYPED = {"moved": "/join ops", "rooms": "/rooms", "history": "/history", "error": "hi"}
ASKED = {"moved": "join", "error": "message"}
ENDS = ("refusal", "bye", "flood")  # the conversation, while more could be typed
SHOWN_IN_A_PIPE = ("message", "whisper", "refusal", "bye", "lost", "rooms", "error")
CASES = [
    (what, field)
    for what, (_, fields, _) in FRAMES.items()
    for field, value in fields.items()
    if isinstance(value, (str, list)) and (what, field) != ("flood", "code")  # with another code it is no flood
]


def spoilt(value: Any) -> Any:
    """A value of a frame, with every text in it replaced."""
    if isinstance(value, list):
        return [spoilt(one) for one in value]
    if isinstance(value, dict):
        return {key: spoilt(one) for key, one in value.items()}
    return EVIL if isinstance(value, str) else value


async def serve(peer: Peer, number: int, what: str, frame: dict[str, Any]) -> None:
    """Bring this frame at its place in the first connection or, where it belongs there, in the second."""
    await peer.hear()
    kind = FRAMES[what][0]
    if what in ("recovered", "gap", "lost") or number > 1:
        if number > 1:
            await peer.say(
                line(kind, **frame) if number == 2 and what in ("recovered", "gap") else line("welcome", **BACK)
            )
        else:
            await peer.say(line("welcome", **HERE), *([line(kind, **frame)] if what == "lost" else []))
            return
    elif what in ("welcome", "refusal"):
        await peer.say(line(kind, **frame))
    else:
        await peer.say(line("welcome", **HERE))
        asked = ASKED.get(what, kind)
        if asked not in ("join", "message", "members", "rooms", "history") or what == "message":
            await peer.say(line(kind, **frame))
    while True:
        said = await peer.hear()
        about = {name: said[name] for name in ("id", "ref") if name in said}
        if said["type"] == "bye":
            await peer.say(line("bye", **GOODBYE))
        elif said["type"] == ASKED.get(what, kind):
            await peer.say(line(kind, **frame, **about))
        else:
            assert said["type"] == "members", said
            await peer.say(line("members", members=["Mina"], count=1, **about))


async def talk(
    monkeypatch: pytest.MonkeyPatch, what: str, serve: Callable[[Peer, int], Any], *, terminal: bool = True
) -> int:
    """The client's exit code, after a conversation in which something was typed."""
    reading, writing = os.pipe()
    os.write(writing, f"{TYPED.get(what, '/list')}\n".encode())
    if what not in ENDS:
        os.close(writing)
    connections = 0

    async def handle(stream: anyio.abc.SocketStream) -> None:
        nonlocal connections
        connections += 1
        async with stream:
            try:
                await serve(Peer(stream), connections)
            except (anyio.IncompleteRead, anyio.BrokenResourceError):
                pass

    with os.fdopen(reading) as keyboard, anyio.fail_after(LONG):
        monkeypatch.setattr(sys, "stdin", keyboard)
        if terminal:
            for stream in (sys.stdin, sys.stdout):
                monkeypatch.setattr(stream, "isatty", lambda: True)
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, handle)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            code = await client._talk(Address("127.0.0.1", port), "Mina", "dev", True)
            tasks.cancel_scope.cancel()
    if what in ENDS:
        os.close(writing)
    return code


def check_harmless(printed: str) -> None:
    """See that what was printed is lines and nothing else."""
    assert printed == "" or printed.endswith("\n")
    assert not {char for char in printed if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")} - set("\n\t")
    for one in printed.split("\n"):
        assert not one.startswith("FAKE"), printed
        assert one.count("\u202e") + one.count("\u202a") == one.count("\u202c"), one
        assert one.count("\u2067") == one.count("\u2069"), one


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # what the client runs on
@pytest.mark.parametrize(
    ("what", "field", "terminal"),
    [*((*case, True) for case in CASES), *((*case, False) for case in CASES if case[0] in SHOWN_IN_A_PIPE)],
)
async def test_no_field_of_any_frame_is_more_than_text(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], what: str, field: str, terminal: bool
) -> None:
    _, fields, shown = FRAMES[what]
    frame = fields | {field: spoilt(fields[field])}
    code = await talk(monkeypatch, what, lambda peer, number: serve(peer, number, what, frame), terminal=terminal)
    out, err = capfd.readouterr()
    texts = (what, field) in (("message", "text"), ("whisper", "text"), ("history", "messages"))
    check_harmless(out.replace("\nZoe:FAKE", "\nZoe:") if texts else out)
    check_harmless(err)
    assert ("MARK" in out + err) is (field in shown) or not terminal
    assert code == (1 if what in ENDS else 0)


GARBAGE = [
    EVIL.encode() + b"\n",
    b"\x1b[2J\xff\xfe\x9b31m\n",
    line("MARK\x1b[2J"),
    line("MARK\x9b", seq=EVIL),
    b'{"type": "message", "\x1b[2J": 1}\n',
    line("message", seq=1, ts=1, name=[EVIL], text=EVIL),
    line("message", seq=9, ts=1, name=EVIL, text=EVIL),
    line("welcome", **HERE | {"name": [EVIL]}),
    line("bye", code=[EVIL]),
]


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("first", [True, False], ids=["at first", "later"])
@pytest.mark.parametrize("garbage", GARBAGE)
async def test_garbage_is_not_shown_as_it_came(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], garbage: bytes, first: bool
) -> None:
    async def speak(peer: Peer, number: int) -> None:
        await peer.hear()
        if number == 1 and first:
            await peer.say(garbage)
        elif number == 1:
            await peer.say(line("welcome", **HERE), garbage)
        else:
            await peer.say(line("welcome", **BACK))
        while (said := await peer.hear())["type"] != "bye":
            await peer.say(line("members", members=["Mina"], count=1, ref=said.get("ref")))
        await peer.say(line("bye", **GOODBYE))

    await talk(monkeypatch, "", speak)
    out, err = capfd.readouterr()
    check_harmless(out)
    check_harmless(err)


PRINTED = {
    "tell": (lambda screen, text: screen.tell(text), 1),
    "messages": (lambda screen, text: screen.messages(Message(1, 1, text, "hi"), Message(2, 2, "Zoe", "hi")), 2),
    "whisper": (lambda screen, text: screen.whisper(Whisper(1, text, "hi")), 1),
    "say": (lambda screen, text: say(text), 1),
}


@pytest.mark.parametrize("text", [EVIL, "\ud800", "\udcff\x1b", "\n\n", "\u202e" * 9])
@pytest.mark.parametrize("way", PRINTED)
def test_a_line_is_printed_as_one_line(capfd: pytest.CaptureFixture[str], way: str, text: str) -> None:
    call, lines = PRINTED[way]
    call(Screen(lambda why: None), text)
    printed = "".join(capfd.readouterr())
    check_harmless(printed)
    assert printed.count("\n") == lines


def test_a_wrong_argument_is_named_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fail("examplechatclient", f"there is no flag {EVIL}")
    _, err = capfd.readouterr()
    check_harmless(err)
    assert err.startswith("examplechatclient: there is no flag MARK[2J")
    assert err.count("\n") == 1
