"""`-machat`: the server behaves as MaChat in Go; the transcripts of docs/how-to/coming-from-go.md are true."""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chatapi import ChatAPI, Limits
from chatapi.cli import server
from chatapi.core.hooks import Hooks
from chatapi.core.names import GO, OURS
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
    rows = []
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith("| case |"):
            case, *cells = (cell.strip() for cell in line[1:-1].split("|"))
            read: list[list[str]] = []
            for cell in cells:
                same = cell in ("*as Go*", "*as with -machat*")
                lines = read[-1] if same else re.findall("`([^`]*)`", cell)
                assert lines or cell == "nothing", f"{case}: {cell}"
                read.append(lines)
            rows.append(Row(case, *read))
    return rows


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
def test_the_transcripts_with_the_switch_and_without_it_are_true(row: Row) -> None:
    for machat, expected in ((True, row.switched), (False, row.default)):
        transcript = Transcript(ChatKit(machat=machat))
        transcript.play(row.input)
        transcript.check(expected)


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
