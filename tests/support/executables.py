"""The executables as a user starts them, and sockets to talk to them with: every wait here has a deadline."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
SERVER = "cmd/chatserver"
CLIENT = "cmd/examplechatclient"
DEADLINE = 30.0
"""Seconds after which a test gives up: far more than anything here takes, so that no test depends on speed."""

T = TypeVar("T")


def eventually(condition: Callable[[], T], what: Callable[[], str] | str) -> T:
    """Wait until `condition` returns a true value, and return it; raise AssertionError with `what` if it never does."""
    until = time.monotonic() + DEADLINE
    while not (value := condition()):
        if time.monotonic() > until:
            raise AssertionError(what if isinstance(what, str) else what())
        time.sleep(0.005)
    return value


def environment(**more: str) -> dict[str, str]:
    """This process's environment without variables that change how the executables behave, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MACHAT_")}
    kept.pop("PYTHONUNBUFFERED", None)  # a program that prints must flush
    return kept | more


def handshake(name: str, room: str, **fields: Any) -> bytes:
    """The JSON object that a client sends first, as Go's json.Marshal writes it: with nothing behind it."""
    return json.dumps({"name": name, "room": room, **fields}, ensure_ascii=False, separators=(",", ":")).encode()


def prepared(before: Callable[[], None] | None = None) -> Callable[[], None] | None:
    """The `preexec_fn` of every program that a test may interrupt: Ctrl-C ends it, and `before` is called.

    A shell ignores SIGINT for what it runs in the background, and each child process inherits that.
    """
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        return before

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if before is not None:
            before()

    return prepare


class Program:
    """A program under test, with its output and its errors kept apart; it never outlives its `with` block."""

    def __init__(
        self,
        *argv: str | Path,
        cwd: str | Path = ROOT,
        stdin: int | None = subprocess.PIPE,
        stdout: int | None = None,
        env: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=stdin,
            stdout=self._out if stdout is None else stdout,
            stderr=self._err,
            env=environment() if env is None else env,
            preexec_fn=prepared(before),
        )

    @property
    def out(self) -> bytes:
        """What it has printed so far."""
        return _content(self._out.fileno())

    @property
    def err(self) -> str:
        """What it has said on stderr so far."""
        return _content(self._err.fileno()).decode(errors="backslashreplace")

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def type(self, text: str | bytes) -> None:
        """Write to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() if isinstance(text, str) else text)
        self.process.stdin.flush()

    def end_input(self) -> None:
        """Close its stdin, as Ctrl-D does."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def prints(self, what: bytes) -> None:
        """Wait until it has printed this."""
        eventually(lambda: what in self.out, lambda: f"{what!r} was not printed, but {self.out!r} and {self.err!r}")

    def says(self, what: str, times: int = 1) -> None:
        """Wait until it has said this on stderr."""
        eventually(lambda: self.err.count(what) >= times, lambda: f"{what!r} was not said, but: {self.err}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it has ended; it must not have shown a traceback."""
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; it printed {self.out[-500:]!r} and said: {self.err}") from None
        self.check()
        return code

    def check(self) -> None:
        """It must not have shown a traceback."""
        assert "Traceback" not in self.err, self.err
        assert "error inside the server" not in self.err, self.err

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.ended:
            self.process.kill()
            self.process.wait(DEADLINE)
        for stream in (self._out, self._err, self.process.stdin):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # it has ended without reading all input


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def run(*argv: str | Path, cwd: str | Path = ROOT, **env: str) -> tuple[int, str, str]:
    """Run a program that ends by itself: its exit code, its output, its errors."""
    done = subprocess.run(
        argv, cwd=cwd, env=environment(**env), stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Server(Program):
    """A running chat server; leaving its `with` block stops it with SIGTERM, which must end it in good order."""

    def __init__(
        self,
        *flags: str,
        address: str = "127.0.0.1:0",
        argv: Sequence[str | Path] = (sys.executable, SERVER),
        cwd: str | Path = ROOT,
        env: dict[str, str] | None = None,
        before: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(*argv, "-a", address, *flags, cwd=cwd, env=env, before=before, stdin=subprocess.DEVNULL)
        self.peers: list[Peer] = []
        doors = 2 if "-telnet" in flags else 1
        try:
            eventually(lambda: self.out.count(b"\n") >= doors or self.ended, lambda: f"it does not listen: {self.err}")
            assert not self.ended, f"it ended: {self.err}"
            lines = self.out.decode().splitlines()
        except BaseException:
            super().__exit__(*sys.exc_info())
            raise
        self.addresses = _addresses(lines[0], "chatserver: listening on ")
        self.telnet = _addresses(lines[1], "chatserver: telnet listening on ") if doors == 2 else []

    @property
    def address(self) -> str:
        """Where it listens, as HOST:PORT."""
        host, port = self.addresses[0]
        return f"{host}:{port}"

    @property
    def log(self) -> list[str]:
        """The lines of its log."""
        return self.err.splitlines()

    def connect(self, *, to: tuple[str, int] | None = None, receive_buffer: int = 0, source: str = "") -> Peer:
        """A connection to it, which is closed when the server is stopped at the latest."""
        peer = Peer(to or self.addresses[0], receive_buffer, source)
        self.peers.append(peer)
        return peer

    def member(self, name: str, room: str, *, receive_buffer: int = 0, source: str = "", **fields: Any) -> Peer:
        """A connection that has shaken hands and is in its room."""
        peer = self.connect(receive_buffer=receive_buffer, source=source)
        peer.send(handshake(name, room, **fields) + b"\n")
        eventually(
            lambda: f"{name} joined {room} from {peer.where}" in self.err,
            lambda: f"{name} is not in {room}; it heard {peer.heard!r}; the log: {self.err}",
        )
        return peer

    def hang_up(self) -> None:
        """Close every connection that a test has made."""
        for peer in self.peers:
            peer.close()
        self.peers.clear()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Have it end in good order."""
        self.hang_up()
        if not self.ended:
            self.signal(number)
        assert self.wait() == 0, self.err

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.hang_up()
            if kind is None and not self.ended:
                self.stop()
            if kind is None:
                self.check()
        finally:
            super().__exit__(kind, error, trace)


def _addresses(line: str, prefix: str) -> list[tuple[str, int]]:
    assert line.startswith(prefix), line
    pairs = [text.rpartition(":") for text in line.removeprefix(prefix).split(" and ")]
    return [(host.strip("[]"), int(port)) for host, _, port in pairs]


class Peer:
    """One TCP connection, read line by line."""

    def __init__(self, address: tuple[str, int], receive_buffer: int = 0, source: str = "") -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        try:
            if receive_buffer:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            if source:
                self.socket.bind((source, 0))
            self.socket.settimeout(DEADLINE)
            self.socket.connect(address)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self.socket.close()
            raise
        host, port = self.socket.getsockname()[:2]
        self.where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.heard = b""
        """Bytes that were received and not yet returned."""

    def send(self, text: str | bytes) -> None:
        """Send all of it."""
        self.socket.settimeout(DEADLINE)
        self.socket.sendall(text.encode() if isinstance(text, str) else text)

    def dribble(self, text: bytes) -> None:
        """Send it a byte at a time."""
        for i in range(len(text)):
            self.socket.sendall(text[i : i + 1])

    def _more(self, until: float) -> bool:
        try:
            self.socket.settimeout(max(0.001, until - time.monotonic()))
            data = self.socket.recv(1 << 16)
        except TimeoutError:
            raise AssertionError(f"not all of it came; what did: {self.heard[-500:]!r}") from None
        self.heard += data
        return bool(data)

    def until(self, what: bytes) -> bytes:
        """Everything up to and with `what`."""
        deadline = time.monotonic() + DEADLINE
        while what not in self.heard:
            assert self._more(deadline), f"the stream ended without {what!r}: {self.heard[-500:]!r}"
        before, found, self.heard = self.heard.partition(what)
        return before + found

    def line(self) -> str:
        """The next line, without its line feed."""
        return self.until(b"\n")[:-1].decode()

    def lines(self, number: int) -> list[str]:
        """The next so many lines."""
        deadline = time.monotonic() + DEADLINE
        while self.heard.count(b"\n") < number:
            assert self._more(deadline), f"the stream ended before {number} lines had come: {self.heard[-500:]!r}"
        *found, self.heard = self.heard.split(b"\n", number)
        return [line.decode() for line in found]

    def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        deadline = time.monotonic() + DEADLINE
        while self._more(deadline):
            pass
        everything, self.heard = self.heard, b""
        return everything

    def refusal(self) -> dict[str, Any]:
        """The one line of JSON that a refused handshake gets, which is all that comes."""
        said = self.rest()
        assert said.endswith(b"\n"), said
        assert said.count(b"\n") == 1, said
        refusal = json.loads(said)
        assert refusal["type"] == "error", refusal
        assert isinstance(refusal["detail"], str), refusal
        return dict(refusal)

    def end(self) -> None:
        """End this side of the stream."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Break the connection: the server gets an error, not an end of stream."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Close it."""
        self.socket.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def comes_in(server: Server, name: str, room: str, **fields: Any) -> Peer | None:
    """A connection that is in the room, or None if it was refused."""
    peer = server.connect()
    peer.send(handshake(name, room, **fields) + b"\n/list\n")
    return None if peer.line().startswith("{") else peer


def hears_next(listener: Peer, speaker: Peer, name: str) -> None:
    """Check that the next line `listener` receives is the one `speaker` sends now: nothing was in flight to it."""
    speaker.send("that was all\n")
    assert listener.line() == f"{name}:that was all"
