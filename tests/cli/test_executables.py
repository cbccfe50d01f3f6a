"""`python cmd/chatserver` as a user starts it: flags, what it prints and logs, signals, and running out of descriptors.

One way through it is in test_smoke.py, and wrong flags are in test_wrong_flags.py. What is said over its sockets is in
test_over_sockets.py and test_crowds.py, telnet and nc in test_telnet_and_nc.py.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from executables import ROOT, SERVER, Peer, Program, Server, environment, eventually, handshake, run

try:
    import resource
except ImportError:  # not on Windows
    pytest.skip("these tests start the executables the POSIX way", allow_module_level=True)

pytestmark = pytest.mark.slow

PYTHON = sys.executable


def _talks(server: Server, where: tuple[str, int] | None = None) -> None:
    """Somebody comes in and is heard by somebody else."""
    listener = server.connect(to=where)
    listener.send(handshake("Listener", "hall", notices=True))
    eventually(lambda: "Listener joined hall" in server.err, lambda: server.err)
    speaker = server.connect(to=where)
    speaker.send(handshake("Speaker", "hall") + b"\nhello\n")
    assert listener.lines(2) == ["* Speaker joined", "Speaker:hello"]
    speaker.close()
    assert listener.line() == "* Speaker left"
    listener.send("/bye\n")
    listener.rest()


def _refused(*flags: str, **env: str) -> str:
    """The one line with which it refuses to start."""
    code, out, err = run(PYTHON, SERVER, *flags, **env)
    assert (code, out) == (2, ""), (code, out, err)
    assert re.fullmatch(r"chatserver: [^\n]+\n", err), err
    return err


# Starting


@pytest.mark.parametrize(
    ("script", "inside"),
    [(SERVER, True), (SERVER + "/__main__.py", True), (ROOT / SERVER, False), (ROOT / SERVER / "__main__.py", False)],
    ids=["repo root", "its file", "another folder", "its file from another folder"],
)
def test_it_starts_from_any_folder(script: str | Path, inside: bool, tmp_path: Path) -> None:
    with Server(argv=(PYTHON, script), cwd=ROOT if inside else tmp_path) as server:
        _talks(server)


def test_a_fresh_clone_runs_its_own_code_and_not_an_installed_one(tmp_path: Path) -> None:
    clone = tmp_path / "a clone"
    for part in ("cmd", "chatapi"):
        shutil.copytree(ROOT / part, clone / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "gotcpchat.py", clone)
    package = clone / "chatapi" / "__init__.py"
    package.write_text(package.read_text() + '\n__version__ = "1.2.3-of-the-clone"\n')
    for program in ("chatserver", "examplechatclient"):
        assert run(PYTHON, clone / "cmd" / program, "-version", cwd=tmp_path) == (
            0,
            f"{program} 1.2.3-of-the-clone\n",
            "",
        )
    with Server(argv=(PYTHON, clone / "cmd" / "chatserver"), cwd=tmp_path) as server:
        _talks(server)


def test_it_needs_no_standard_streams() -> None:
    """A service manager may close all three; whatever opens next then gets their numbers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Program(PYTHON, SERVER, "-a", f"127.0.0.1:{port}", before=lambda: os.closerange(0, 3))
    with program:

        def come_in() -> Peer | None:
            try:
                return Peer(("127.0.0.1", port))
            except ConnectionRefusedError:
                assert not program.ended, "it ended"
                return None

        with eventually(come_in, "it does not listen") as peer:
            peer.send(handshake("Mina", "hall", echo=True) + b"\nhello\n")
            assert peer.line() == "Mina:hello"
            peer.end()
            assert peer.rest() == b""
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_an_output_that_takes_nothing_makes_no_traceback() -> None:
    with open("/dev/full", "wb") as full:
        program = Program(PYTHON, SERVER, "-a", "127.0.0.1:0", stdout=full.fileno())
    with program:
        # whether it goes on without having said where it listens or not: it says so in a line
        eventually(lambda: program.ended or program.err, "it neither ends nor says anything")
        if not program.ended:
            program.signal(signal.SIGTERM)
        program.wait()
        assert "No space left on device" in program.err


def test_the_cmd_folder_does_not_stand_in_for_the_standard_library_module() -> None:
    assert not list((ROOT / "cmd").rglob("__init__.py"))
    code, out, err = run(PYTHON, "-c", "import cmd, pdb; print(cmd.Cmd.__module__, pdb.Pdb.__name__)")
    assert (code, out, err) == (0, "cmd Pdb\n", "")
    code, out, err = run(PYTHON, "-m", "pytest", "--version")
    assert code == 0, err
    assert "pytest" in out + err


# Where it listens


@pytest.mark.parametrize("address", ["localhost:0", ":0", "[::1]:0", "127.0.0.1:0"])
def test_everybody_gets_in_at_each_address_that_it_prints(address: str) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        if "::1" in address:
            pytest.skip("this machine has no IPv6")
    with Server(address=address) as server:
        assert len({port for _, port in server.addresses}) == 1
        for host, port in server.addresses:
            _talks(server, ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port))


def test_an_address_in_use_is_one_line() -> None:
    with Server("-telnet", "127.0.0.1:0") as server:
        telnet = f"127.0.0.1:{server.telnet[0][1]}"
        assert server.address in _refused("-a", server.address)
        assert telnet in _refused("-a", "127.0.0.1:0", "-telnet", telnet)
        _talks(server)


# Wrong flags and values


@pytest.mark.parametrize("flag", ["-grace", "-linger", "-keep", "-idle", "-handshake-seconds", "-rate"])
def test_an_infinite_number_is_refused_or_works(flag: str) -> None:
    with Program(PYTHON, SERVER, "-a", "127.0.0.1:0", flag, "inf") as program:
        eventually(lambda: program.ended or program.out, "it neither ends nor listens")
        if not program.ended:
            with Peer(("127.0.0.1", int(program.out.rpartition(b":")[2]))) as peer:
                peer.send(handshake("Mina", "hall", echo=True) + b"\nhello\n/bye\n")
                assert peer.line() == "Mina:hello"
                peer.until(b"\n")
                assert peer.rest() == b""
            program.signal(signal.SIGTERM)
        assert program.wait() == (0 if program.out else 2)
        assert program.out or len(program.err.splitlines()) == 1


def test_a_limit_can_be_a_flag_or_an_environment_variable_and_the_flag_wins() -> None:
    def told(*flags: str, **env: str) -> str:
        with Server(*flags, env=environment(**env)) as server:
            peer = server.member("Mina", "hall", echo=True)
            peer.send(b"x" * 150 + b"\nshort\n")
            answer = peer.line()
            assert peer.line() == "Mina:short"
            return answer

    assert re.fullmatch(r"\* .*150.*100.*", told(MACHAT_LINE_BYTES="100"))
    assert re.fullmatch(r"\* .*150.*120.*", told("-line-bytes", "120"))
    assert re.fullmatch(r"\* .*150.*120.*", told("--line-bytes=120", MACHAT_LINE_BYTES="100"))
    assert told("-line-bytes", "200", MACHAT_LINE_BYTES="100") == "Mina:" + "x" * 150


def test_switches_can_be_environment_variables() -> None:
    env = environment(MACHAT_ECHO="1", MACHAT_NO_COMMANDS="true", MACHAT_LOG_LEVEL="warning", MACHAT_CONNECTIONS="1000")
    with Server(env=env) as server:
        peer = server.connect()
        peer.send(handshake("Mina", "hall") + b"\n/list\n")
        assert peer.line() == "Mina:/list"
        assert server.err == ""


# The log


def test_the_log_has_a_line_for_every_join_leave_and_refusal_and_never_what_was_said() -> None:
    with Server("-line-bytes", "2000", "-connections", "1000", "-telnet", "127.0.0.1:0") as server:
        zoe = server.member("Zoe", "hall")
        mina = server.member("Mina", "hall", notices=True)
        mina.send("s3cret in a message\n@Zoe s3cret in a whisper\n/s3cret\n@s3cret s3cret\n/history s3cret\n")
        mina.send(b"s3cret \xff\n" + b"s3cret" * 1000 + b"\n")
        assert zoe.lines(2) == ["Mina:s3cret in a message", "* Mina whispers: s3cret in a whisper"]
        assert all(line.startswith("* ") for line in mina.lines(5))
        taken = server.connect()
        taken.send(handshake("zoe", "hall") + b"\ns3cret\n")
        assert taken.refusal()["code"] == "name_taken"
        wrong = server.connect()
        wrong.send(b'{"name": "Mina"}\ns3cret\n')
        assert wrong.refusal()["code"] == "bad_handshake"
        zoe.send("s3cret at the end\n/bye\n")
        zoe.rest()
        gone = server.member("Gone", "hall")
        gone.reset()
        mina.until(b"* Gone left")
        mina.end()
        mina.rest()
        guest = server.connect(to=server.telnet[0])
        guest.send("Guest\r\n/bye\r\n")
        guest.rest()
        server.hang_up()
        server.says("Guest left")  # a thread writes the log, which has the lines before this one by then
        lines = server.log
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S.*$", line) for line in lines), lines
        expected = {
            zoe.where: [r"Zoe joined hall", r"Zoe left .*\bbye\b"],
            mina.where: [r"Mina joined hall", r"Mina left .*\bbye\b"],
            taken.where: [r"refused .*name_taken.*'Zoe' is already in 'hall'"],
            wrong.where: [r"refused .*bad_handshake.*room"],
            gone.where: [r"Gone joined hall", r"Gone left .*connection_lost"],
            guest.where: [r"Guest joined lounge", r"Guest left .*\bbye\b"],
        }
        for where, patterns in expected.items():
            about = [line for line in lines if re.search(re.escape(where) + r"\b", line)]
            assert len(about) == len(patterns), (where, lines)
            for line, pattern in zip(about, patterns, strict=True):
                assert re.search(pattern, line), line
        assert len(lines) == sum(map(len, expected.values())), lines
        assert "s3cret" not in server.err


@pytest.mark.parametrize(("level", "expected"), [("debug", True), ("info", True), ("warning", False), ("error", False)])
def test_the_log_level_says_what_is_logged(level: str, expected: bool) -> None:
    with Server("-log-level", level) as server:
        peer = server.connect()
        peer.send(handshake("Mina", "hall", echo=True) + b"\nhello\n")
        assert peer.line() == "Mina:hello"
        server.signal(signal.SIGTERM)
        server.wait()  # by then the log is written
        assert ("Mina joined hall" in server.err) is expected


# Running out of descriptors


def test_out_of_descriptors_it_waits_says_so_once_and_goes_on() -> None:
    with Server() as server:
        mina, zoe = server.member("Mina", "hall"), server.member("Zoe", "hall")
        members = [server.member(f"m{i}", "hall") for i in range(10)]  # no connection without a member can give way
        few = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (few, few))
        crowd = [*members, *(Peer(server.addresses[0]) for _ in range(20))]
        try:
            server.says("cannot accept")
            for i in range(20):  # those who are in go on
                mina.send(f"still {i}\n")
                assert zoe.line() == f"Mina:still {i}"
        finally:
            for peer in crowd:
                peer.close()
        late = server.connect()
        late.send(handshake("Late", "hall") + b"\nhere I am\n")
        assert zoe.line() == "Late:here I am"
        assert mina.line() == "Late:here I am"
        server.says("accepting connections again")
        assert server.err.count("cannot accept") == 1
        assert server.err.count("accepting connections again") == 1


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(number: signal.Signals) -> None:
    """Everybody gets what was sent before, and is told; whoever comes later is turned away; the port is free again."""
    with Server("-rate", "1", "-burst", "1", "-telnet", "127.0.0.1:0", "-lobby", "hall") as server:
        mina, zoe = server.member("Mina", "hall"), server.member("Zoe", "hall", notices=True)
        silent = server.connect()
        guest = server.connect(to=server.telnet[0])
        guest.until(b"Nickname: ")
        lines = [f"line {i}" for i in range(300)]
        mina.send("".join(f"{line}\n" for line in lines))
        assert zoe.line() == "Mina:line 0"  # so all of it was read, in one packet; the rate holds the rest back
        server.signal(number)
        assert zoe.lines(299) == [f"Mina:{line}" for line in lines[1:]]
        for peer in (mina, zoe):
            last = peer.rest().decode()
            assert last.startswith("* draining: "), last
            assert last.count("\n") == 1, last
        assert silent.refusal()["code"] == "draining"
        assert b"draining" in guest.rest()
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        server.hang_up()
        assert server.wait() == 0
        with Server(address=server.address) as another:
            assert another.addresses == server.addresses
            _talks(another)


@contextmanager
def draining_with_a_deaf_member(drain: str) -> Iterator[tuple[Server, list[Peer]]]:
    """A server that has got SIGTERM, and two members that are told so; a third one is sent much and never reads."""
    flags = ("-drain", drain, "-grace", "3600", "-linger", "3600", "-send-buffer-bytes", "4096", "-rate", "0")
    with Server(*flags) as server:
        deaf = server.member("Deaf", "hall", receive_buffer=4096)
        mina, zoe = server.member("Mina", "hall"), server.member("Zoe", "hall")
        mina.send((b"x" * 1000 + b"\n") * 500)
        assert len(zoe.lines(500)) == 500
        server.signal(signal.SIGTERM)
        assert zoe.rest().startswith(b"* draining: ")
        yield server, [mina, zoe]
        server.wait()
        assert deaf.socket.fileno() >= 0  # it was open, and unread, all the time


def test_a_drain_ends_at_its_time_though_somebody_never_reads() -> None:
    with draining_with_a_deaf_member("2") as (_, others):
        assert others[0].rest().startswith(b"* draining: ")
        for peer in others:
            peer.close()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once_though_somebody_never_reads(second: signal.Signals) -> None:
    with draining_with_a_deaf_member("3600") as (server, _):
        assert not server.ended
        server.signal(second)
        server.wait()
        with Server(address=server.address) as another:
            _talks(another)
