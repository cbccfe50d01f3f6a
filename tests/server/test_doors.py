"""A program's own door: a protocol object for each connection, beside the doors that the library has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import anyio
import pytest
from serving import served

import gotcpchat
from chatapi import AddressError, ChatAPI, ChatError, Limits, RefusalCode, Refused, TextTooLong
from chatapi.core.hooks import Hooks
from chatapi.doors import ConnectionProtocol, TextStyle, handshake_of, refuse_strangers
from chatapi.testing import ChatKit, LateBroker, Peer

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_door.py"
SPEC = importlib.util.spec_from_file_location("own_door", EXAMPLE)
assert SPEC is not None
assert SPEC.loader is not None
own_door = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(own_door)
CommandProtocol: type[ConnectionProtocol] = own_door.CommandProtocol


def login(
    kit: ChatKit, name: str, room: str = "dev", door: type[ConnectionProtocol] = CommandProtocol, **fields: Any
) -> Peer:
    peer = kit.connect(door=door, **fields)
    peer.send(f"LOGIN {name} {room}\r\n")
    kit.settle()
    return peer


# A conversation


def test_members_of_all_doors_are_in_the_same_room() -> None:
    kit = ChatKit()
    mina, zoe = kit.member("Mina", notices=True), login(kit, "Zoe")
    assert mina.lines() == ["* Zoe joined"]
    zoe.send("SAY hello\r\nWHO\r\n")
    assert mina.lines() == ["Zoe:hello"]
    assert zoe.lines() == ["* Mina Zoe"]
    mina.send("hi\nthere\n")
    assert zoe.received() == "Mina says: hi\r\nMina says: there\r\n"
    zoe.send("QUIT\r\n")
    assert zoe.lines() == ["* goodbye"]
    assert zoe.transport.ended
    assert mina.lines() == ["* Zoe left"]


def test_a_command_may_come_in_pieces_and_several_at_once() -> None:
    kit = ChatKit()
    mina, zoe = kit.member("Mina"), kit.connect(door=CommandProtocol)
    for byte in b"LOGIN Zoe dev\nSAY one\nSAY two":
        zoe.send(bytes([byte]))
        kit.settle()
    assert mina.lines() == ["Zoe:one"]
    zoe.end()  # ends the last line too
    assert mina.lines() == ["Zoe:two"]
    assert zoe.transport.closed


def test_history_is_shown_in_the_style_of_the_door() -> None:
    kit = ChatKit()
    kit.member("Mina").send("before\n")
    kit.settle()
    assert login(kit, "Zoe").lines() == ["Mina says: before"]


class LoudStyle(TextStyle):
    """Has the same fields as the style of the library's own door."""

    def entry(self, entry: Any) -> bytes:
        return super().entry(entry).upper()


@pytest.mark.parametrize("first", ["Mina", "Zoe"])
def test_a_style_is_not_taken_for_the_class_that_it_is_derived_from(first: str) -> None:
    class Loud(CommandProtocol):  # type: ignore[misc, valid-type]
        style = LoudStyle(notices=True)

    kit = ChatKit()
    zoe = login(kit, "Zoe", door=Loud) if first == "Zoe" else None
    mina = kit.member("Mina", notices=True)
    zoe = zoe or login(kit, "Zoe", door=Loud)
    mina.received(), zoe.received()
    kit.member("Yan").send("hello\n")
    assert mina.lines() == ["* Yan joined", "Yan:hello"]
    assert zoe.lines() == ["* YAN JOINED", "YAN:HELLO"]
    assert LoudStyle() == LoudStyle() != TextStyle()


# Refusals


@pytest.mark.parametrize(
    ("sent", "told", "code"),
    [
        ("SAY hello\n", "* bad_handshake: say LOGIN NAME ROOM first", "bad_handshake"),
        ("LOGIN a,b dev\n", "* bad_name: ", "bad_name"),
        ("LOGIN Mina dev\n", "* name_taken: 'Mina' is already in 'dev'", "name_taken"),
        ("x" * 9000 + "\n", "* text_too_long: your line has 9,000 bytes", "bad_handshake"),
    ],
)
def test_a_client_that_is_refused_before_it_has_joined_is_told_why_and_its_connection_ends(
    sent: str, told: str, code: str
) -> None:
    kit = ChatKit()
    kit.member("Mina")
    stranger = kit.connect(door=CommandProtocol)
    stranger.send(sent)
    assert stranger.received().startswith(told)
    assert stranger.transport.ended
    assert kit.hub.refusals == {code: 1}


def test_a_client_that_says_nothing_is_told_so_after_the_time_for_a_handshake() -> None:
    kit = ChatKit(Limits(handshake_seconds=3))
    silent = kit.connect(door=CommandProtocol)
    kit.wait(2.8)
    assert silent.received() == ""
    kit.wait(0.4)
    assert silent.lines() == ["* handshake_timeout: you did not identify yourself within 3 s"]


def test_an_error_of_a_members_command_is_told_and_the_connection_goes_on() -> None:
    kit = ChatKit(Limits(line_bytes=64))
    mina, zoe = kit.member("Mina"), login(kit, "Zoe")
    zoe.send("SAY " + "x" * 100 + "\nDANCE\nSAY still here\n")
    too_long, unknown = zoe.lines()
    assert too_long.startswith("* text_too_long: your line has 104 bytes; at most 64 are allowed")
    assert unknown == "* the commands are SAY TEXT, WHO and QUIT"
    assert mina.lines() == ["Zoe:still here"]


def test_too_many_errors_are_a_flood() -> None:
    kit = ChatKit(Limits(rate=0, flood=5))
    zoe = login(kit, "Zoe")
    zoe.send("DANCE\n" * 20)
    assert zoe.lines()[-1].startswith("* flood: ")
    assert zoe.transport.ended


def test_a_member_is_told_what_the_broker_did_not_keep() -> None:
    kit = ChatKit(broker=LateBroker)
    assert isinstance(kit.broker, LateBroker)
    zoe = login(kit, "Zoe")
    kit.broker.failing = Refused(RefusalCode.UNAVAILABLE, "the disk is full")
    zoe.send("SAY hello\nQUIT\n")
    assert zoe.received() == ""  # QUIT waits until it is known what became of the line
    kit.broker.release()
    assert zoe.lines() == ["* unavailable: your line was not kept: the disk is full", "* goodbye"]


def test_the_rate_holds_members_of_the_door_back_too() -> None:
    kit = ChatKit(Limits(rate=10, burst=10))
    mina, zoe = kit.member("Mina"), login(kit, "Zoe")
    zoe.send("SAY x\n" * 30)
    assert len(mina.lines()) == 10
    assert not zoe.transport.reading
    kit.wait(1)
    assert 8 <= len(mina.lines()) <= 12


def test_the_hook_decides_which_clients_are_admitted_through_the_door() -> None:
    def admit(handshake: Any) -> Any:
        if handshake.name == "Zoe":
            raise Refused(RefusalCode.FORBIDDEN, "not you")
        return handshake.model_copy(update={"room": "lobby"})

    kit = ChatKit(hooks=Hooks(admit=admit))
    assert login(kit, "Zoe").lines() == ["* forbidden: not you"]
    login(kit, "Mina")
    assert [client.name for client in kit.hub.rooms["lobby"].members] == ["Mina"]


class Again(CommandProtocol):  # type: ignore[misc, valid-type]
    """Lets the client try another name, as in docs/how-to/doors.md."""

    def refuse(self, error: ChatError) -> None:
        if self.connection.client is None and isinstance(error, Refused) and error.code == RefusalCode.NAME_TAKEN:
            self.connection.write(self.style.notice(error.code, error.detail))
            self.connection.fault()
        else:
            super().refuse(error)


def test_a_door_may_ask_again_for_a_name() -> None:
    kit = ChatKit(Limits(handshake_seconds=3, flood=3))
    kit.member("Mina")
    zoe, silent, stubborn = (kit.connect(door=Again) for _ in range(3))
    zoe.send("LOGIN Mina dev\nLOGIN Zoe dev\nWHO\n")
    assert zoe.lines() == ["* name_taken: 'Mina' is already in 'dev'", "* Mina Zoe"]
    stubborn.send("LOGIN Mina dev\n" * 5)
    assert stubborn.lines()[-1].startswith("* flood: ")
    silent.send("LOGIN Mina dev\n")
    kit.wait(4)
    assert silent.lines()[-1].startswith("* handshake_timeout: ")
    assert silent.transport.ended


# Clients of other protocols


class Patient(ConnectionProtocol):
    """Answers what it does not know, and goes on, before the client has joined too."""

    style = TextStyle()

    def next_step(self, most: int) -> str | None:
        if self.connection.client is None and refuse_strangers(self.received):
            return None
        line = self.received.take_line(64)
        return None if line is None else line.decode(errors="replace")

    def handle(self, step: str) -> None:
        word, _, name = step.partition(" ")
        if word == "JOIN":
            fields = {"name": name, "room": "dev"}
            self.connection.admit(handshake_of(fields, self.connection.hub.naming), lambda handshake: self)
        else:
            self.connection.write(self.style.line(f"unknown: {word}"))

    def refuse(self, error: ChatError) -> None:
        if isinstance(error, TextTooLong):
            self.connection.write(self.style.line(str(error)))
        else:
            super().refuse(error)


BODY = "Host: chat\r\nContent-Length: 30\r\n\r\nJOIN evil\r\nJOIN evil\r\n"


@pytest.mark.parametrize("door", [CommandProtocol, Patient])
@pytest.mark.parametrize("piece", [1, 7, 1000])
@pytest.mark.parametrize("line", ["POST / HTTP/1.1\r\n", f"POST /{'x' * 600} HTTP/1.1\r\n"], ids=["short", "long"])
def test_a_web_page_cannot_use_a_door_of_lines(door: type[ConnectionProtocol], piece: int, line: str) -> None:
    kit = ChatKit()
    browser, request = kit.connect(door=door), line + BODY
    for at in range(0, len(request), piece):
        browser.send(request[at : at + piece])
        kit.settle()
    assert browser.received().startswith("HTTP/1.1 400 Bad Request\r\n")
    assert browser.transport.ended
    assert not kit.hub.rooms
    assert kit.hub.refusals == {"bad_handshake": 1}


def test_a_client_of_tls_is_told_in_plain_text() -> None:
    kit = ChatKit()
    client = kit.connect(door=Patient)
    client.send(b"\x16")
    assert client.received() == ""
    client.send(b"\x03\x01\x02\x00")
    assert client.lines() == ["this port does not speak TLS; connect to it without encryption"]


def test_lines_that_only_begin_like_a_request_are_taken() -> None:
    kit = ChatKit()
    client = kit.connect(door=Patient)
    client.send("POST / ")
    assert client.received() == ""
    client.send("and more\nGET\n")
    assert client.lines() == ["* unknown: POST", "* unknown: GET"]
    client.send("GET / HTTP/1.0")
    client.end()
    assert client.received().startswith("HTTP/1.1 400 ")


def test_a_last_line_without_a_line_end_is_taken() -> None:
    kit = ChatKit()
    client = kit.connect(door=Patient)
    client.send("HELLO")
    client.end()
    assert client.lines() == ["* unknown: HELLO"]


# Faults of the program


class Faulty(ConnectionProtocol):
    """Fails in its constructor, at the greeting, or at a step."""

    style = TextStyle()
    where = "step"

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        if self.where == "constructor":
            raise ZeroDivisionError

    def connected(self) -> None:
        if self.where == "greeting":
            raise ZeroDivisionError

    def next_step(self, most: int) -> Any:
        raise ZeroDivisionError


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["greeting", "step"])
async def test_a_fault_of_a_door_ends_its_connection_alone(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Faulty, "where", where)
    chat = ChatAPI()
    doors = {"faulty": ("127.0.0.1:0", Faulty)}
    async with (
        served(chat, doors=doors) as at,
        await anyio.connect_tcp(*at["text"]) as mina,
        await anyio.connect_tcp(*at["faulty"]) as broken,
    ):
        await broken.send(b"hello\n")
        assert await broken.receive() == b"* server_error: an error inside the server\n"
        assert "an error inside the server" in caplog.text
        await mina.send(b'{"name": "Mina", "room": "dev", "echo": true}\nhello\n')
        assert await mina.receive() == b"Mina:hello\n"


class Confused(Patient):
    """Does what is not possible in its state."""

    def handle(self, step: str) -> None:
        connection, fields = self.connection, {"name": "Zoe", "room": "dev"}
        if step == "move":
            connection.move("ops")
        elif step == "refuse":
            connection.refuse(Refused(RefusalCode.FORBIDDEN, "no"), b"")
        else:
            connection.admit(handshake_of(fields, connection.hub.naming), lambda handshake: self)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ("move\n", "move: this client has not joined a room"),
        ("admit\nadmit\n", "admit: this client has joined already"),
        ("admit\nrefuse\n", "refuse: this client has joined"),
    ],
)
def test_what_is_impossible_now_is_an_error_that_says_so(sent: str, told: str) -> None:
    kit = ChatKit()
    client = kit.connect(door=Confused)
    client.send(sent)
    with pytest.raises(RuntimeError, match=told):
        kit.settle()


@pytest.mark.parametrize("before", [True, False], ids=["before it has joined", "as a member"])
def test_a_flood_is_a_refusal_before_the_client_has_joined_and_a_disconnect_afterwards(before: bool) -> None:
    class Counting(Patient):
        def handle(self, step: str) -> None:
            if step == "fault":
                self.connection.fault()
            else:
                super().handle(step)

    kit = ChatKit(Limits(rate=0, flood=5))
    client = kit.connect(door=Counting)
    client.send(("" if before else "JOIN Zoe\n") + "fault\n" * 6)
    assert client.lines()[-1].startswith("* flood: ")
    counted, not_counted = kit.hub.refusals, kit.hub.disconnects
    if not before:
        counted, not_counted = not_counted, counted
    assert (counted, not_counted) == ({"flood": 1}, {})


def test_a_fault_at_the_greeting_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faulty, "where", "greeting")
    kit = ChatKit()
    client = kit.connect(door=Faulty)
    assert client.lines() == ["* server_error: an error inside the server"]
    assert (kit.hub.refusals, kit.hub.disconnects) == ({"server_error": 1}, {})


def test_a_door_that_makes_no_protocol_object_has_its_connection_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faulty, "where", "constructor")
    kit = ChatKit()
    with pytest.raises(ZeroDivisionError):
        kit.connect(door=Faulty)
    assert not kit.hub.connections
    assert len(kit.hub.origins) == 0


# Over sockets


@pytest.mark.anyio
async def test_a_chat_listens_at_a_door_of_the_programs_own_beside_the_others() -> None:
    chat = ChatAPI(Limits(linger=0.1))
    doors = {"commands": ("127.0.0.1:0", CommandProtocol)}
    async with served(chat, doors=doors) as at:
        assert list(at) == ["text", "commands"]
        with anyio.fail_after(60):
            async with (
                await anyio.connect_tcp(*at["text"]) as mina,
                await anyio.connect_tcp(*at["commands"]) as zoe,
            ):
                await mina.send(b'{"name": "Mina", "room": "dev", "notices": true}\n/list\n')
                assert await mina.receive() == b"* in dev (1): Mina\n"
                await zoe.send(b"LOGIN Zoe dev\r\nSAY hello\r\n")
                told = b""
                while b"hello" not in told:
                    told += await mina.receive()
                assert told == b"* Zoe joined\nZoe:hello\n"
                await mina.send(b"hi\n")
                assert await zoe.receive() == b"Mina says: hi\r\n"
                await chat.drain()
                assert await zoe.receive() == b"* draining: the server is shutting down\r\n"


@pytest.mark.anyio
async def test_an_address_of_a_door_that_is_none_is_an_error() -> None:
    with pytest.raises(AddressError):
        await ChatAPI().serve("127.0.0.1:0", doors={"commands": ("nonsense", CommandProtocol)})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("doors", "told"),
    [
        ({"x": "127.0.0.1:0"}, "the door 'x' is '127.0.0.1:0'; it is a tuple of an address and what makes"),
        ({"x": ("127.0.0.1:0", None)}, "the door 'x' is .*; it is a tuple"),
        ({"x": (None, CommandProtocol)}, "the door 'x' is .*; it is a tuple"),
        ({"x": ("127.0.0.1:0", CommandProtocol, 1)}, "the door 'x' is .*; it is a tuple"),
        ({"": ("127.0.0.1:0", CommandProtocol)}, "'' cannot be the name of a door"),
        ({7: ("127.0.0.1:0", CommandProtocol)}, "7 cannot be the name of a door"),
    ],
)
async def test_a_door_that_is_none_is_an_error_that_says_what_a_door_is(doors: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        await ChatAPI().serve("127.0.0.1:0", doors=doors)
    with pytest.raises(ValueError, match=told):
        await gotcpchat.run_tcp_with_existing_api("127.0.0.1:0", ChatAPI(), doors=doors)


def test_run_tcp_checks_its_doors_too() -> None:
    doors: Any = {"x": "127.0.0.1:0"}
    with pytest.raises(ValueError, match="the door 'x' is "):
        gotcpchat.run_tcp("127.0.0.1:0", doors=doors)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["text", "telnet"])
async def test_the_librarys_own_doors_keep_their_names(name: str) -> None:
    with pytest.raises(ValueError, match=f"the library has a door '{name}' of its own"):
        await ChatAPI().serve("127.0.0.1:0", doors={name: ("127.0.0.1:0", CommandProtocol)})
