"""`python cmd/examplechatclient` as a user starts it: at a keyboard and in a pipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_client import client_of
from executables import CLIENT, ROOT, Peer, Program, Server, environment, eventually, handshake

pytestmark = pytest.mark.slow

if sys.platform == "win32":
    pytest.skip("these tests start the executables the POSIX way", allow_module_level=True)


PYTHON = sys.executable


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server("-rate", "0") as server:
        yield server


# Starting


@pytest.mark.parametrize("inside", [True, False], ids=["repo root", "another folder"])
def test_it_starts_from_any_folder(server: Server, room: str, zoe: Peer, inside: bool, tmp_path: Path) -> None:
    script = CLIENT if inside else ROOT / CLIENT
    argv = (PYTHON, script, "-client", "Mina", "-room", room, "-address", server.address)
    with Program(*argv, cwd=ROOT if inside else tmp_path) as client:
        client.type("hello\n")
        assert zoe.lines(2) == ["* Mina joined", "Mina:hello"]
        client.end_input()
        assert client.wait() == 0


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_the_flags_of_gochat(server: Server, room: str, zoe: Peer, dashes: str) -> None:
    host, port = server.addresses[0]
    argv = (f"{dashes}client", "Mina", f"{dashes}room", room, "-s", host, "-p", str(port))
    with Program(PYTHON, CLIENT, *argv) as client:
        assert zoe.line() == "* Mina joined"
        client.end_input()
        assert client.wait() == 0


def test_without_a_name_it_makes_one_up_and_goes_to_the_lounge(server: Server) -> None:
    zoe = server.member("Zoe", "lounge", notices=True)
    with Program(PYTHON, CLIENT, "-address", server.address) as client:
        assert re.fullmatch(r"\* User\d+ joined", zoe.line())
        client.end_input()
        assert client.wait() == 0


# Talking


def test_commands_are_answered_as_in_the_text_protocol() -> None:
    """The same lines typed at the client, and sent by a member of the text protocol, show the same."""
    typed = (
        b"hello\n/list\n/rooms\n/nick Nina\n/nick Zoe\n/username a:b\n/list\n@Nobody hello\n@zoe\n/join den\n/list\n"
        b"/join den\n/join a,b\n/nick Mina\n//slash\n@@at\n\n/history 2\n/history\n/history x\n/nonsense\n"
        b"/list x\n\x1b/who\n/join\n/help\n/join hall\n/history 1\n%s\n\xffoh\ndone\n/list\n/bye\n"
    ) % (b"x" * 9000)
    shown = []
    for program in (False, True):
        with Server() as server:
            server.member("Zoe", "hall")
            if not program:
                mina = server.member("Mina", "hall")
                mina.send(typed)
                shown.append(mina.rest())
                continue
            with client_of(server, "hall") as client:
                client.type(typed)
                assert client.wait() == 0
                assert client.err == ""
                shown.append(client.out)
    assert shown[1].decode().splitlines() == shown[0].decode().splitlines()


def test_a_line_of_any_length_is_one_line(server: Server, room: str, zoe: Peer) -> None:
    with client_of(server, room) as client:
        client.type(b"x" * 3_000_000 + b"\nhello")
        client.end_input()
        assert client.wait() == 0
        assert client.out == b"* your line has 3,000,000 bytes; at most 8,192 are allowed; it was not sent\n"
    assert zoe.lines(2) == ["* Mina joined", "Mina:hello"]


def test_a_message_of_several_lines_is_several_lines(server: Server, room: str) -> None:
    zoe = server.connect()
    zoe.send(handshake("Zoe", room, protocol="json") + b"\n")
    with client_of(server, room) as client:
        zoe.until(b'"joined"')
        zoe.send(json.dumps({"type": "message", "text": "one\ntwo"}) + "\n")
        zoe.send(json.dumps({"type": "whisper", "to": "Mina", "text": "three\nfour"}) + "\n")
        client.prints(b"four\n")
        assert client.out == b"Zoe:one\nZoe:two\n* Zoe whispers: three\n* Zoe whispers: four\n"


def test_in_a_terminal_it_shows_members_that_join_and_leave(server: Server, room: str) -> None:
    screen, terminal = os.openpty()
    os.set_blocking(screen, False)
    shown = b""

    def shows(what: bytes) -> bool:
        nonlocal shown
        try:
            shown += os.read(screen, 1 << 16)
        except BlockingIOError:
            pass  # nothing more yet
        return what in shown

    try:
        with client_of(server, room, stdout=terminal) as client:
            eventually(lambda: f"Mina joined {room}" in server.err, lambda: server.err)
            zoe = server.member("Zoe", room)
            zoe.send("/nick Zo\nhello\n/bye\n")
            eventually(lambda: shows(b"* Zo left\r\n"), lambda: repr(shown))
            assert shown.decode().splitlines() == ["* Zoe joined", "* Zoe is now Zo", "Zo:hello", "* Zo left"]
            client.end_input()
            assert client.wait() == 0
    finally:
        os.close(screen)
        os.close(terminal)


def test_a_member_whose_name_starts_with_a_brace_is_heard_at_once(server: Server, room: str) -> None:
    """A first line of JSON would be a refusal; this is none."""
    brace = server.member('{"a"}', room, notices=True)
    with client_of(server, room) as client:
        assert brace.line() == "* Mina joined"
        brace.send("hello\n")
        client.prints(b'{"a"}:hello\n')
        client.end_input()
        assert client.wait() == 0
        assert client.out == b'{"a"}:hello\n'


def test_it_keeps_up_with_much_that_is_said(server: Server, room: str, zoe: Peer) -> None:
    with client_of(server, room) as client:
        assert zoe.line() == "* Mina joined"
        lines = [f"line {i} " + "x" * (i % 100) for i in range(10_000)]
        zoe.send("".join(f"{line}\n" for line in lines))
        client.prints(b"Zoe:line 9999 ")
        client.end_input()
        assert client.wait() == 0
        assert client.out.decode().splitlines() == [f"Zoe:{line}" for line in lines]


@pytest.mark.parametrize("line_end", ["", "\n"], ids=["no last line feed", "a last line feed"])
def test_lines_that_are_piped_in_all_go_out_before_it_ends(server: Server, room: str, zoe: Peer, line_end: str) -> None:
    lines = [f"line {i}" for i in range(500)]
    with client_of(server, room) as client:
        client.type("\n".join(lines) + line_end)
        client.end_input()
        assert client.wait() == 0
        assert (client.out, client.err) == (b"", "")
    assert zoe.lines(502) == ["* Mina joined", *(f"Mina:{line}" for line in lines), "* Mina left"]


def test_lines_that_are_piped_in_faster_than_the_server_takes_them_all_go_out() -> None:
    with Server("-rate", "2000", "-burst", "50") as server:
        zoe = server.member("Zoe", "hall")
        with client_of(server, "hall") as client:
            client.type("".join(f"line {i}\n" for i in range(500)))
            client.end_input()
            assert client.wait() == 0
        assert zoe.lines(500) == [f"Mina:line {i}" for i in range(500)]


def test_a_file_as_input(server: Server, room: str, zoe: Peer, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_text("".join(f"line {i}\n" for i in range(300)))
    with file.open("rb") as stdin, client_of(server, room, stdin=stdin.fileno()) as client:
        assert client.wait() == 0
        assert (client.out, client.err) == (b"", "")
    assert zoe.lines(302)[1:-1] == [f"Mina:line {i}" for i in range(300)]


def test_no_input_at_all(server: Server, room: str, zoe: Peer) -> None:
    with client_of(server, room, stdin=subprocess.DEVNULL) as client:
        assert client.wait() == 0
        assert (client.out, client.err) == (b"", "")
    assert zoe.lines(2) == ["* Mina joined", "* Mina left"]


def test_a_closed_input(server: Server, room: str, zoe: Peer) -> None:
    with client_of(server, room, stdin=None, before=lambda: os.close(0)) as client:
        assert client.wait() == 0
        assert (client.out, client.err) == (b"", "")
    assert zoe.lines(2) == ["* Mina joined", "* Mina left"]


def test_an_input_that_cannot_be_read_does_not_leave_it_deaf(
    server: Server, room: str, zoe: Peer, tmp_path: Path
) -> None:
    """As one that is open for writing only, or a terminal that is gone."""
    with (tmp_path / "file").open("wb") as stdin, client_of(server, room, stdin=stdin.fileno()) as client:
        assert zoe.lines(2) == ["* Mina joined", "* Mina left"]
        assert client.wait() in (0, 1)
        assert len(client.err.splitlines()) <= 1


@pytest.mark.parametrize("command", ["/bye", "/quit"])
def test_bye_ends_it_with_0(server: Server, room: str, zoe: Peer, command: str) -> None:
    with client_of(server, room) as client:
        client.type(f"farewell\n{command}\n")
        assert client.wait() == 0
        assert client.err == ""
        assert re.fullmatch(rb"\* [^\n]*bye[^\n]*\n", client.out)
    assert zoe.lines(3) == ["* Mina joined", "Mina:farewell", "* Mina left"]


def test_names_and_lines_of_any_language_in_any_locale(server: Server, room: str, zoe: Peer) -> None:
    argv = (PYTHON, CLIENT, "-client", "Zo\u00eb\u00df", "-room", room, "-address", server.address)
    with Program(*argv, env=environment(LC_ALL="C")) as client:
        client.type("gr\u00fc\u00df dich\n")
        assert zoe.lines(2) == ["* Zo\u00eb\u00df joined", "Zo\u00eb\u00df:gr\u00fc\u00df dich"]
        client.end_input()
        assert client.wait() == 0
