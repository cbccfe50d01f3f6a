"""What the server reads from a connection: all that had arrived before it broke, and little before somebody is in."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product

import pytest

from chatapi import Limits
from chatapi.errors import RefusalCode
from chatapi.limits import OPENING_READ_BYTES, READ_BYTES
from chatapi.protocol.telnet import TelnetFilter
from chatapi.testing import ChatKit, Peer

DOORS = ["text", "json", "telnet"]


def enter(kit: ChatKit, door: str, name: str, **fields: object) -> Peer:
    """A member that has come in through that door, into the room lounge."""
    if door != "telnet":
        return kit.member(name, "lounge", protocol=door, **fields)
    peer = kit.connect(telnet=True)
    peer.send(f"{name}\r\n")
    kit.settle()
    return peer


def say(door: str, *texts: str) -> bytes:
    """So many messages, as they are sent through that door."""
    return b"".join(
        (json.dumps({"type": "message", "text": text}) if door == "json" else text).encode() + b"\n" for text in texts
    )


def texts(peer: Peer) -> list[str]:
    """What a member of the text protocol heard from a."""
    return [line.removeprefix("a:") for line in peer.lines() if line.startswith("a:")]


# A connection that broke


def sending(kit: ChatKit, a: Peer, b: Peer) -> None:
    b.send("are you there?\n")  # the fan-out finds out


def stalled(kit: ChatKit, a: Peer, b: Peer) -> None:
    a.transport.capacity = len(a.transport.sent) + 1
    b.send("part of this is sent\n")
    kit.settle()  # it waits until its socket takes more


def receiving(kit: ChatKit, a: Peer, b: Peer) -> None:
    pass


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("found", [sending, stalled, receiving])
@pytest.mark.parametrize("ended", [False, True], ids=["reset", "end and reset"])
def test_every_line_that_had_arrived_when_the_connection_broke_is_said_at_the_senders_pace(
    door: str, found: Callable[[ChatKit, Peer, Peer], None], ended: bool
) -> None:
    kit = ChatKit(Limits(rate=100, burst=50))
    a, b = enter(kit, door, "a", echo=True), kit.member("b", "lounge")
    said = [f"{i} {'x' * 500}" for i in range(500)]  # more than one read
    if found is stalled:
        stalled(kit, a, b)
    for text in said:
        a.send(say(door, text))
    if ended:
        a.end()
    a.transport.reset()
    if found is sending:
        sending(kit, a, b)
    heard = texts(b)
    assert 0 < len(heard) <= 51
    kit.wait(2)
    heard += texts(b)
    assert len(heard) <= 51 + 200
    kit.wait(3)
    assert heard + texts(b) == said
    kit.wait(10)
    assert a.transport.closed
    assert not a.transport.discarded
    assert sum(kit.hub.disconnects.values()) == 1


@pytest.mark.parametrize("door", DOORS)
def test_a_client_that_was_gone_before_it_was_greeted_has_said_what_it_sent(door: str) -> None:
    kit = ChatKit(Limits(rate=0))
    b = kit.member("b", "lounge")
    a = kit.connect(telnet=door == "telnet")
    opening = "a" if door == "telnet" else json.dumps({"name": "a", "room": "lounge", "protocol": door})
    said = [f"{i} {'x' * 500}" for i in range(500)]
    a.send(opening + "\n")
    a.send(say(door, *said))
    a.transport.reset()
    assert texts(b) == said
    kit.wait(10)
    assert a.transport.closed


def test_a_broken_member_is_paused_by_a_full_room_as_every_other_and_costs_nothing_meanwhile() -> None:
    kit = ChatKit(Limits(rate=0, log_bytes=65_536, grace=5))
    a, slow = kit.member("a"), kit.member("slow", capacity=100)
    said = [f"{i} {'x' * 500}" for i in range(400)]
    for text in said:
        a.send(say("text", text))
    a.transport.reset()
    kit.settle()  # which would not return if the connection was reported as ready for ever
    assert not a.transport.reading
    assert not a.transport.writing
    assert not a.transport.closed
    slow.transport.capacity = 1 << 30
    assert texts(slow) == said
    kit.wait(1)
    assert a.transport.closed


def test_a_command_that_waits_for_the_room_is_carried_out_though_the_connection_broke() -> None:
    kit = ChatKit()
    a, there = kit.member("a", "one"), kit.member("there", "two")
    a.send("here\n/join two\nhello\n/bye\nignored\n")
    a.transport.reset()
    assert there.lines() == ["a:hello"]
    kit.settle()
    assert a.transport.closed
    assert kit.hub.disconnects == {"bye": 1}


def test_a_send_that_fails_behind_a_goodbye_closes_the_connection() -> None:
    kit = ChatKit()
    a = kit.member("a", capacity=0)
    a.send("/bye\nnever said\n")
    kit.settle()
    a.transport.reset()
    kit.settle()
    assert a.transport.closed
    assert kit.hub.disconnects == {"bye": 1}


def test_a_send_that_fails_for_want_of_memory_ends_the_membership_after_what_was_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = ChatKit()
    a, b = kit.member("a"), kit.member("b", notices=True)

    def fail(data: bytes) -> int:
        raise OSError("no memory")

    monkeypatch.setattr(a.transport, "send", fail)
    monkeypatch.setattr(a.connection, "send", fail)
    a.send("last words\n")
    b.send("hello\n")
    assert b.lines() == ["a:last words", "* a left (connection_lost)"]
    assert a.transport.closed


@pytest.mark.parametrize("door", DOORS)
def test_a_server_that_drains_takes_what_the_system_has_received_and_no_more(door: str) -> None:
    kit = ChatKit(Limits(rate=10, burst=10, receive_buffer_bytes=65_536))
    a, b = enter(kit, door, "a"), kit.member("b", "lounge")
    said = [f"{i} {'x' * 50}" for i in range(400)]
    for text in said:
        a.send(say(door, text))
    assert len(texts(b)) == 10
    kit.hub.draining = True
    for connection in kit.hub.connections:
        kit.hub.call(connection)
    assert texts(b) == said[10:]
    for _ in range(100):  # one that never stops is not read for ever
        a.send(say(door, *["y" * 2000] * 10))
    assert len(texts(b)) < 100
    kit.settle()
    assert not a.transport.reading


# Before somebody is in a room


def blanks(size: int) -> tuple[bytes, bytes]:
    handshake = b'{"name":"a","room":"lounge"}'
    return b" " * (size - len(handshake)) + handshake, b"\n"


def nicknames(size: int) -> tuple[bytes, bytes]:
    return (b"x" * 99 + b"\n") * (size // 100 - 1) + b" " * (size % 100 + 98) + b"a\n", b""


def sequences(size: int) -> tuple[bytes, bytes]:
    return b"\xff\xf1" * ((size - 2) // 2) + b"a\n", b""


OPENINGS = {"text": blanks, "nicknames": nicknames, "telnet": sequences}


def opened(how: str, size: int, limits: Limits) -> tuple[Peer, Peer]:
    """A client whose opening has so many bytes, and a member that sees it come in."""
    kit = ChatKit(limits)
    b = kit.member("b", "lounge", notices=True)
    peer = kit.connect(telnet=how != "text")
    opening, behind = OPENINGS[how](size)
    assert len(opening) == size
    peer.send(opening + behind + b"hello\nagain\n")
    kit.settle()
    return peer, b


@pytest.mark.parametrize("how", OPENINGS)
def test_opening_bytes_at_the_limit(how: str) -> None:
    _, b = opened(how, 20_000, Limits(opening_bytes=20_000, flood=10_000))
    assert b.lines() == ["* a joined", "a:hello", "a:again"]


@pytest.mark.parametrize("how", OPENINGS)
def test_opening_bytes_one_beyond(how: str) -> None:
    limits = Limits(opening_bytes=20_000 - (1 if how != "telnet" else 2), flood=10_000)
    peer, b = opened(how, 20_000, limits)
    said = peer.received()
    assert "handshake_too_large" in said
    assert f"{limits.opening_bytes:,} bytes" in said
    assert peer.transport.ended
    assert b.received() == ""


def test_a_large_handshake_that_is_allowed_is_not_bounded_by_less() -> None:
    kit = ChatKit(Limits(opening_bytes=128, handshake_bytes=9000))
    peer = kit.connect()
    peer.send(b'{"name":"a",' + b" " * 8000 + b'"room":"dev"}\n/list\n')
    assert peer.lines() == ["* in dev (1): a"]


@pytest.mark.parametrize("door", DOORS)
def test_strangers_get_a_small_piece_of_a_round_and_members_a_large_one(
    door: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = ChatKit(Limits(rate=0))
    peer = kit.connect(telnet=door == "telnet")
    asked = []
    receive = peer.transport.receive

    def spy(most: int) -> bytes | None:
        asked.append(most)
        return receive(most)

    monkeypatch.setattr(peer.transport, "receive", spy)
    peer.send(b"\n" * 3)
    kit.settle()
    assert max(asked) <= OPENING_READ_BYTES
    peer.send("a\n" if door == "telnet" else json.dumps({"name": "a", "room": "dev", "protocol": door}))
    kit.settle()
    asked.clear()
    peer.send(say(door, "hello"))
    kit.settle()
    assert asked[0] == READ_BYTES


# Bytes that never make a line


@pytest.mark.parametrize(
    ("door", "rubbish"),
    [
        ("telnet", b"\xff\xf1" * 32_768),
        ("telnet", b"\xff\xfa" + b"x" * 65_534),
        ("text", b"x" * 65_536),
        ("json", b"\n" * 65_536),
        ("json", (b" " * 127 + b"\n") * 512),
        ("json", b"x" * 65_536),
    ],
    ids=[
        "IAC sequences",
        "an endless subnegotiation",
        "an endless line",
        "blank lines",
        "long blank lines",
        "an endless frame",
    ],
)
def test_a_member_that_sends_no_lines_is_paused_by_the_line_rate_too(door: str, rubbish: bytes) -> None:
    kit = ChatKit(Limits(rate=10, burst=100))
    a = enter(kit, door, "a")
    for _ in range(100):
        a.send(rubbish)
    kit.settle()
    assert not a.transport.reading
    kit.wait(0.1)
    left = len(a.transport._incoming)
    assert 80 < left < 100  # of 100 reads, each of which counts as 8 lines
    kit.wait(8)
    assert left - 12 <= len(a.transport._incoming) < left
    assert not a.transport.closed


def test_a_line_that_comes_in_many_pieces_counts_once() -> None:
    kit = ChatKit(Limits(rate=1, burst=2))
    a, b = kit.member("a"), kit.member("b")
    for byte in b"x" * 8192 + b"\nnext\n":
        a.send(bytes([byte]))
    assert len(b.lines()) == 2


# Telnet


def test_the_answers_to_one_read_are_bounded_and_all_options_of_a_client_get_one() -> None:
    telnet = TelnetFilter()
    text, answers = telnet.feed(bytes([255, 253, 1]) * 20_000 + b"x\n")
    assert text == b"x\n"
    assert len(answers) < 1000
    _, answers = telnet.feed(b"".join(bytes([255, 251, option]) for option in range(40)))
    assert answers == b"".join(bytes([255, 254, option]) for option in range(40))


@pytest.mark.parametrize("length", range(1, 6))
def test_short_telnet_streams_mean_the_same_wherever_they_are_cut(length: int) -> None:
    for stream in product([255, 250, 240, 253, 246, 13, 65], repeat=length):
        data = bytes([*stream, 66, 255, 240, 67])
        whole = TelnetFilter().feed(data)
        bytewise = TelnetFilter()
        fed = [bytewise.feed(bytes([byte])) for byte in data]
        assert whole == (b"".join(text for text, _ in fed), b"".join(answer for _, answer in fed)), data


# Rubbish


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\xff\xfe{\0}\0", "byte order mark of UTF-16"),
        ('{"name": "a"}'.encode("utf-16-le"), "NUL bytes"),
        ('{"name": "a"}'.encode("utf-16-be"), "NUL byte"),
        (b'\xef\xbb\xbf{"name": "a", "room": "b"}', "byte order mark; leave it out"),
        (b"\0", "NUL byte"),
        (b"\x7fELF\x02\x01", "'\\x7f'"),
        (b"{\xff\xff}", "not JSON"),
        (b"hello\n", "starts with 'h'"),
        (b" " * 100_000, "65,536 bytes"),
        (b"X" * 100_000, "starts with 'X'"),
    ],
)
def test_rubbish_at_the_main_door_gets_one_clear_line(data: bytes, told: str) -> None:
    kit = ChatKit()
    peer = kit.connect()
    peer.send(data)
    peer.end()
    answers = [json.loads(line) for line in peer.lines()]
    assert len(answers) == 1
    assert answers[0]["code"] in (RefusalCode.BAD_HANDSHAKE, RefusalCode.HANDSHAKE_TOO_LARGE)
    assert told in answers[0]["detail"]
    assert answers[0]["detail"].isprintable()
    assert peer.transport.closed


@pytest.mark.parametrize(
    "data",
    [bytes(range(256)) * 400, b"\0" * 1000, b"\0\n" * 1000, b" " * 100_000, "Mi na\n".encode("utf-16") * 200],
    ids=["binary", "NUL", "NUL lines", "blanks", "UTF-16"],
)
def test_rubbish_at_the_telnet_door_is_answered_in_printable_lines_and_joins_nothing(data: bytes) -> None:
    kit = ChatKit()
    peer = kit.connect(telnet=True)
    peer.send(data)
    peer.end()
    said = peer.received()
    assert all(line.isprintable() for line in said.split("\r\n"))
    assert kit.hub.disconnects.keys() | kit.hub.refusals.keys() <= {"flood", "handshake_too_large"}
    assert not kit.hub.rooms
    assert peer.transport.closed
