"""What a client sends with bad intent, in any field: none of it is more than text in the log, to others, in answers."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from speakers import Speaker

from chatapi import RefusalCode, Refused
from chatapi.core.hooks import Hooks
from chatapi.testing import ChatKit

EVIL = "\x1b[2J\x9b31m\r\x08\x7f\x85\u2028\u2029\u202e\u2067evil"
EVIL_LINES = f"{EVIL}\n2026-01-01 00:00:00 Mina joined dev from 10.0.0.1:1"

HANDSHAKES: dict[str, Any] = {
    field: {"name": "Mina", "room": "dev", field: EVIL_LINES}
    for field in ("name", "room", "protocol", "echo", "commands", "notices", "history", "token", "resume", EVIL_LINES)
}
HANDSHAKES |= {
    f"resume {field}": {"name": "Mina", "room": "dev", "protocol": "json", "resume": {field: EVIL_LINES}}
    for field in ("epoch", "seq", "ts", "session", EVIL_LINES)
}
HANDSHAKES |= {"list": [EVIL_LINES], "number": 1, "types": {"name": [EVIL_LINES], "room": {EVIL_LINES: 1}}}
LINES = [
    "/\u202e\u2067evil",
    EVIL, f"/{EVIL}", f"//{EVIL}", f"/nick {EVIL}", f"/nick Mina{EVIL}", f"/join {EVIL}", f"/msg {EVIL} hi",
    f"/msg zoe {EVIL}", f"@{EVIL} hi", f"@zoe {EVIL}", f"@{EVIL}", f"/history {EVIL}", f"/list {EVIL}", f"/bye {EVIL}",
]  # fmt: skip


def is_harmless(text: str) -> bool:
    """Whether each line of a text is text and nothing else."""
    for one in text.split("\n"):
        if {char for char in one if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")} - {"\t"}:
            return False
        if one.count("\u202e") > one.count("\u202c") or one.count("\u2067") > one.count("\u2069"):
            return False
    return True


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the server's log says."""
    caplog.set_level(logging.DEBUG, "chatapi")
    return lambda: [record.getMessage() for record in caplog.records]


def _check(log: list[str], *shown: str) -> None:
    assert log
    for line in log:
        assert is_harmless(line), ascii(line)
        assert "\n" not in line, ascii(line)
    for text in shown:
        assert is_harmless(text), ascii(text)


@pytest.mark.parametrize("what", HANDSHAKES, ids=ascii)
def test_a_handshake(log: Callable[[], list[str]], what: str) -> None:
    kit = ChatKit()
    zoe = kit.member("Zoe", notices=True)
    mina = kit.connect()
    mina.send(json.dumps(HANDSHAKES[what]) + "\n")
    kit.settle()
    _check(log(), mina.received(), zoe.received())


@pytest.mark.parametrize("raw", [EVIL_LINES, f"{{{EVIL}", f'{{"name": {EVIL}}}', f'{{"name": "\\{EVIL}"}}'])
def test_what_is_no_handshake(log: Callable[[], list[str]], raw: str) -> None:
    kit = ChatKit()
    mina = kit.connect()
    mina.send(raw)
    mina.end()
    kit.settle()
    answer = mina.received()
    assert answer
    _check(log(), answer)


def test_a_nickname(log: Callable[[], list[str]]) -> None:
    kit = ChatKit()
    zoe, mina = kit.member("Zoe", "lounge", notices=True), kit.connect(telnet=True)
    mina.send(f"{EVIL}\r\nMina{EVIL}\r\n")
    kit.settle()
    answer = mina.received()
    assert answer.count("which is not allowed") == 2
    _check(log(), answer.replace("\r\n", "\n"), zoe.received())


@pytest.mark.parametrize("kind", ["message", "whisper", "rename", "join", "members", "rooms", "history", "ping"])
def test_a_frame(log: Callable[[], list[str]], kind: str) -> None:
    for field in ("type", "to", "text", "room", "id", "ref", "after", "before", "limit", EVIL_LINES):
        kit = ChatKit()
        zoe = kit.member("Zoe", notices=True)
        mina = Speaker(kit).opened()
        zoe.received()
        mina.send(**{"type": kind, "to": "Zoe", "text": "hi", "room": "dev", field: EVIL_LINES})
        details = [frame.get("detail", "") for frame in mina.frames()]
        assert not any("\n" in detail for detail in details), field
        _check(log(), zoe.received(), *details)


@pytest.mark.parametrize("line", LINES, ids=ascii)
def test_a_line(log: Callable[[], list[str]], line: str) -> None:
    kit = ChatKit()
    zoe, bob = kit.member("Zoe", notices=True), Speaker(kit, "Bob").opened()
    mina = kit.member("Mina")
    mina.send(f"{line}\n")
    kit.settle()
    answer = mina.received()
    assert answer.count("\n") <= 1
    texts = [str(frame.get("text", "")) for frame in bob.frames()]
    _check(log(), answer, zoe.received(), *texts)


def _no(*said: object) -> None:
    raise Refused(RefusalCode.FORBIDDEN, f"not this: {EVIL_LINES}")


def test_what_a_hook_quotes(log: Callable[[], list[str]]) -> None:
    kit = ChatKit(hooks=Hooks(on_message=_no))
    text, speaker = kit.member("Mina"), Speaker(kit, "Bob").opened()
    text.received()
    text.send("hi\n")
    speaker.send("message", text="hi")
    detail = speaker.frame()["detail"]
    assert detail.startswith("not this: [2J")
    assert text.received() == f"* {detail}\n"
    assert "\n" not in detail
    _check(log(), detail)


@pytest.mark.parametrize("telnet", [False, True])
def test_what_a_hook_quotes_at_the_door(log: Callable[[], list[str]], telnet: bool) -> None:
    kit = ChatKit(hooks=Hooks(admit=_no))
    mina = kit.connect(telnet=telnet)
    mina.send("Mina\n" if telnet else '{"name": "Mina", "room": "dev"}')
    kit.settle()
    answer = mina.received()
    assert "not this: [2J" in answer
    _check(log(), answer.replace("\r\n", "\n"))
    assert len(log()) == 1
