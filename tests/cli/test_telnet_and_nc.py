"""The programs that people have at hand, `telnet`, `nc` and `printf`, against `python cmd/chatserver`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from executables import Peer, Program, Server, eventually, handshake

if sys.platform == "win32":
    pytest.skip("these tests start the executables the POSIX way", allow_module_level=True)

import pty

NC = shutil.which("nc") or "nc"
TELNET = shutil.which("telnet") or "telnet"


def _nc_is_openbsd() -> bool:
    try:
        shown = subprocess.run([NC, "-h"], stdin=subprocess.DEVNULL, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"OpenBSD" in shown.stderr + shown.stdout or (b"-N" in shown.stderr and b"-U" in shown.stderr)


needs_nc = pytest.mark.skipif(not _nc_is_openbsd(), reason="there is no OpenBSD nc here (netcat-openbsd)")
needs_telnet = pytest.mark.skipif(shutil.which("telnet") is None, reason="there is no telnet here (inetutils-telnet)")

IAC, DONT, DO, WONT, WILL, SB, NOP, AYT, SE = 255, 254, 253, 252, 251, 250, 241, 246, 240
ECHO, SUPPRESS_GO_AHEAD, NAWS, LINEMODE = 1, 3, 31, 34


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server("-telnet", "127.0.0.1:0", "-lobby", "lounge") as server:
        yield server


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """The shared server; whatever a test did to it, it still runs and has shown no traceback."""
    yield running
    running.hang_up()
    eventually(lambda: running.err.count(" joined ") == running.err.count(" left "), lambda: running.err)
    assert not running.ended
    running.check()


def _port(server: Server) -> str:
    return str(server.addresses[0][1])


# nc


@needs_nc
@pytest.mark.parametrize("line_end", ["", "\n"], ids=["no last line feed", "a last line feed"])
def test_printf_into_nc(server: Server, room: str, line_end: str) -> None:
    zoe = server.member("Zoe", room, notices=True)
    script = (
        f"""printf '%s\\nhello\\nthe last line{line_end}' '{handshake("Mina", room).decode()}' | nc -N 127.0.0.1 $0"""
    )
    with Program("/bin/sh", "-c", script, _port(server)) as shell:
        assert shell.wait() == 0
        assert (shell.out, shell.err) == (b"", "")
    assert zoe.lines(4) == ["* Mina joined", "Mina:hello", "Mina:the last line", "* Mina left"]


@needs_nc
def test_nc_without_n_stays_and_listens(server: Server, room: str) -> None:
    """It does not tell the server that its input has ended."""
    zoe = server.member("Zoe", room, notices=True)
    with Program(NC, "127.0.0.1", _port(server)) as nc:
        nc.type(handshake("Mina", room) + b"\nhello\n")
        nc.end_input()
        assert zoe.lines(2) == ["* Mina joined", "Mina:hello"]
        zoe.send("stay a while\n@Mina and listen\n")
        nc.prints(b"Zoe:stay a while\n* Zoe whispers: and listen\n")
        assert not nc.ended
    assert zoe.line().startswith("* Mina left")


@needs_nc
def test_nc_with_a_refused_handshake_shows_why_and_ends(server: Server, room: str) -> None:
    server.member("Mina", room)
    with Program(NC, "-N", "127.0.0.1", _port(server)) as nc:
        nc.type(handshake("mina", room) + b"\nhello\n")
        nc.end_input()
        assert nc.wait() == 0
        assert b'"code":"name_taken"' in nc.out.replace(b" ", b"")
        assert nc.out.count(b"\n") == 1


@needs_nc
@pytest.mark.parametrize("flag", ["-N", ""], ids=["with -N", "without -N"])
@pytest.mark.parametrize(
    "lines",
    [pytest.param(150, id="below the burst"), pytest.param(600, id="above the burst", marks=pytest.mark.slow)],
)
def test_a_file_piped_into_nc_arrives_whole(server: Server, tmp_path: Path, room: str, flag: str, lines: int) -> None:
    """The line rate pauses whoever sends more than the burst; nothing of it is lost."""
    said = [f"line {i} " + "x" * (i % 70) for i in range(lines)]
    file = tmp_path / "what to say.txt"
    file.write_bytes(handshake("Mina", room) + b"\n" + "\n".join(said).encode() + (b"" if flag else b"\n"))

    def pipe(server: Server) -> None:
        zoe = server.member("Zoe", room)
        with (
            file.open("rb") as stdin,
            Program(NC, *filter(None, [flag]), "127.0.0.1", _port(server), stdin=stdin.fileno()) as nc,
        ):
            assert zoe.lines(lines) == [f"Mina:{line}" for line in said]
            if flag:
                assert nc.wait() == 0

    if lines < 200:
        pipe(server)
    else:
        with Server("-rate", "2000") as fast:
            pipe(fast)


@needs_nc
def test_two_people_with_nc(server: Server, room: str) -> None:
    with Program(NC, "127.0.0.1", _port(server)) as mina, Program(NC, "127.0.0.1", _port(server)) as zoe:
        mina.type(handshake("Mina", room) + b"\n")
        server.says(f"Mina joined {room}")
        zoe.type(handshake("Zoe", room) + b"\nhello\n")
        mina.prints(b"Zoe:hello\n")
        mina.type("hello back\n/bye\n")
        zoe.prints(b"Mina:hello back\n")
        mina.prints(b"* goodbye\n")
        mina.end_input()
        zoe.type("/bye\n")
        zoe.prints(b"* goodbye\n")
        zoe.end_input()
        assert zoe.out.startswith(b"Mina:hello back\n")


@needs_nc
def test_nc_at_the_telnet_door(server: Server) -> None:
    zoe = server.member("Zoe", "lounge", notices=True)
    with Program(NC, "-N", "127.0.0.1", str(server.telnet[0][1])) as nc:
        nc.prints(b"Nickname: ")
        nc.type("Mina\nhello\n")
        assert zoe.lines(2) == ["* Mina joined", "Mina:hello"]
        zoe.send("hello yourself\n")
        nc.prints(b"Zoe: hello yourself\r\n")
        nc.end_input()
        assert nc.wait() == 0
    assert zoe.line() == "* Mina left"


# The telnet door, byte by byte


def _guest(server: Server, name: str) -> Peer:
    """Somebody who came in at the telnet door, and has read what it says to begin with."""
    guest = server.connect(to=server.telnet[0])
    greeting = guest.until(b"Nickname: ")
    assert greeting.startswith(b"* ")
    assert b"lounge" in greeting
    guest.send(f"{name}\r\n")
    eventually(lambda: f"{name} joined lounge from {guest.where}" in server.err, lambda: server.err)
    guest.send("/list\r\n")
    guest.until(b"* in lounge")
    guest.until(b"\r\n")
    return guest


def test_a_nickname_is_asked_for_until_it_can_be_had(server: Server) -> None:
    zoe = server.member("Zoe", "lounge", notices=True)
    guest = server.connect(to=server.telnet[0])
    guest.until(b"Nickname: ")
    for nickname, reason in (
        (b"zoe", b"'Zoe' is already in 'lounge'"),
        (b"a:b", b"':'"),
        (b"@home", b"'@'"),
        (b"", b"empty"),
        (b"x" * 33, b"33"),
        (b"caf\xe9", b"UTF-8"),
        (b"x" * 20000, b"20,000"),
    ):
        guest.send(nickname + b"\r\n")
        answer = guest.until(b"Nickname: ")
        assert answer.startswith(b"* "), answer
        assert reason in answer, answer
        assert answer.count(b"\r\n") == answer.count(b"\n") == 1, answer
    guest.send(b"  Mina \r\nhello\r\n")
    assert zoe.lines(2) == ["* Mina joined", "Mina:hello"]
    assert b"Mina, Zoe" in guest.until(b"Mina, Zoe")
    zoe.send("hello yourself\n@Mina psst\n")
    assert b"\r\nZoe: hello yourself\r\n* Zoe whispers: psst\r\n" in guest.until(b"psst\r\n")
    zoe.send("/username Zoey\n/bye\n")
    zoe.rest()
    seen = guest.until(b"Zoey left\r\n")
    assert b"* Zoe is now Zoey\r\n" in seen
    assert seen.count(b"\r\n") == seen.count(b"\n")
    guest.send("/bye\r\n")
    assert guest.rest().endswith(b"* goodbye\r\n")


@pytest.mark.parametrize("cut", [False, True], ids=["one packet", "every byte its own packet"])
def test_telnet_commands_are_answered_and_never_shown(server: Server, cut: bool) -> None:
    zoe = server.member("Zoe", "lounge")
    guest = _guest(server, "Mina")
    sent = b"".join(
        [
            b"be",
            bytes([IAC, DO, SUPPRESS_GO_AHEAD]),
            b"fore\r\n",
            bytes([IAC, WILL, NAWS]),
            bytes([IAC, SB, NAWS, 0, 80, IAC, IAC, 24, IAC, SE]),
            bytes([IAC, SB, LINEMODE, *b"\r\n/bye\r\n", IAC, SE]),
            b"in ",
            bytes([IAC, NOP]),
            b"one line\r\0",
            bytes([IAC, WONT, ECHO, IAC, DONT, ECHO]),
            b"after\n",
            bytes([IAC, DO, ECHO]),
        ]
    )
    guest.dribble(sent) if cut else guest.send(sent)
    assert zoe.lines(3) == ["Mina:before", "Mina:in one line", "Mina:after"]
    zoe.send("that was all\n")
    answered = guest.until(b"that was all\r\n")
    while (refused := bytes([IAC, WONT, ECHO])) not in answered:
        answered += guest.until(refused)
    for option in (bytes([IAC, WONT, SUPPRESS_GO_AHEAD]), bytes([IAC, DONT, NAWS]), refused):
        assert answered.count(option) == 1, answered
        answered = answered.replace(option, b"")
    assert answered == b"Zoe: that was all\r\n"  # WONT and DONT need no answer, and would make a loop
    guest.send(bytes([IAC, AYT]))
    assert guest.until(b"yes")
    guest.send("/bye\r\n")
    assert guest.rest().endswith(b"* goodbye\r\n")


def test_what_looks_like_telnet_is_not_text_at_the_telnet_door_and_not_utf8_at_the_other(
    server: Server, room: str
) -> None:
    mina, zoe = server.member("Mina", room), server.member("Zoe", room)
    mina.send(bytes([IAC, DO, ECHO]) + b"hello\nfollowing\n")
    assert "UTF-8" in mina.line()
    assert zoe.line() == "Mina:following"
    guest = _guest(server, "Guest")
    guest.send(b"two " + bytes([IAC, IAC]) + b"\r\n")  # a byte of data 255
    assert b"UTF-8" in guest.until(b"\r\n")


def test_the_telnet_door_ends_in_good_order_wherever_one_hangs_up(server: Server) -> None:
    zoe = server.member("Zoe", "lounge", notices=True)
    for said in (b"", b"Mi", b"zoe\r\n", bytes([IAC]), bytes([IAC, SB, NAWS]), b"\r"):
        guest = server.connect(to=server.telnet[0])
        guest.until(b"Nickname: ")
        guest.send(said)
        guest.end()
        guest.rest()
    guest = _guest(server, "Mina")
    guest.send(b"no line end")
    guest.end()
    guest.rest()
    heard = [line for line in zoe.lines(4) if not line.startswith(("* Mi joined", "* Mi left"))]
    while heard[-1] != "* Mina left":
        heard.append(zoe.line())
    assert heard[-3:] == ["* Mina joined", "Mina:no line end", "* Mina left"]


# The telnet program


@needs_telnet
def test_telnet_from_a_pipe(server: Server) -> None:
    zoe = server.member("Zoe", "lounge", notices=True)
    with Program(TELNET, *map(str, server.telnet[0])) as telnet:
        telnet.prints(b"Nickname: ")
        telnet.type("Zoe\n")
        telnet.prints(b"'Zoe' is already in 'lounge'")
        telnet.type("Mina\n")
        assert zoe.line() == "* Mina joined"
        telnet.prints(b"Mina, Zoe")
        telnet.type("hello from telnet\n")
        assert zoe.line() == "Mina:hello from telnet"
        zoe.send("hello yourself\n")
        telnet.prints(b"Zoe: hello yourself")
        telnet.type("/bye\n")
        assert zoe.line() == "* Mina left"
        telnet.prints(b"goodbye")
        telnet.wait()
        assert b"\xff" not in telnet.out


@needs_telnet
def test_telnet_in_a_terminal(server: Server) -> None:
    zoe = server.member("Zoe", "lounge", notices=True)
    keyboard, terminal = pty.openpty()
    try:
        with Program(TELNET, *map(str, server.telnet[0]), stdin=terminal) as telnet:
            telnet.prints(b"Nickname: ")
            os.write(keyboard, b"Mina\n")
            assert zoe.line() == "* Mina joined"
            os.write(keyboard, "gr\u00fc\u00df dich\n".encode())
            assert zoe.line() == "Mina:gr\u00fc\u00df dich"
            zoe.send("servus, \u20ac\n")
            telnet.prints("Zoe: servus, \u20ac".encode())
            os.write(keyboard, b"/bye\n")
            assert zoe.line() == "* Mina left"
            telnet.wait()
    finally:
        os.close(keyboard)
        os.close(terminal)
