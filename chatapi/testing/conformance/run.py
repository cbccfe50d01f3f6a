"""One case of a conformance run: the client as a subprocess, and the scripted server that it talks to."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Final

from .script import POLL, Failed, Frame, Listener, Peer, ts

NAME: Final = "Mina"
ROOM: Final = "dev"
_KEPT_STDERR: Final = 64 * 1024
_KILL: Final = 9  # SIGKILL


class Run:
    """What a case does with a client: type lines, accept its connections, and read what it prints."""

    def __init__(self, command: Sequence[str], timeout: float) -> None:
        self.timeout: float = timeout
        self.listener: Listener = Listener()
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = threading.Condition()
        self._out: list[str] = []
        self._out_ended = False
        self._read = 0  # lines of `_out` that a case has expected
        self._err = b""
        self._threads: list[threading.Thread] = []
        self._peers: list[Peer] = []

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listener.close()
        for peer in self._peers:
            peer.reset()
        if self._process is None:
            return
        if self._process.poll() is None or any(thread.is_alive() for thread in self._threads):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, _KILL)  # a client that a script has started too
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass  # lines that the client did not read

    # The client as a process

    def start(self, name: str = NAME, room: str = ROOM) -> None:
        """Start the client, with the address, its name and its room as its last arguments."""
        arguments = [*self._command, f"127.0.0.1:{self.listener.port}", name, room]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        self._threads = [threading.Thread(target=read) for read in (self._read_output, self._read_errors)]
        for thread in self._threads:
            thread.start()

    def type(self, text: str) -> None:
        """Write to the client's standard input."""
        stdin = self._running.stdin
        assert stdin is not None
        try:
            stdin.write(text.encode())
            stdin.flush()
        except OSError:
            pass  # it has ended, which the next step notices

    def end_input(self) -> None:
        """Close the client's standard input."""
        stdin = self._running.stdin
        assert stdin is not None
        try:
            stdin.close()
        except OSError:
            pass

    def prints(self, *lines: str) -> None:
        """Wait until the client has printed these lines, and nothing else before them."""
        for line in lines:
            expected = f"the client prints {_cut(line)!r}"
            with self._changed:
                if not self._changed.wait_for(lambda: len(self._out) > self._read or self._out_ended, self.timeout):
                    raise Failed(expected, f"nothing for {self.timeout:g} seconds; {self.describe()}")
                if len(self._out) <= self._read:
                    raise Failed(expected, f"it printed nothing more; {self.describe()}")
                printed = self._out[self._read]
                self._read += 1
            if printed != line:
                raise Failed(expected, f"it printed {_cut(printed)!r}")

    def prints_nothing_else(self) -> None:
        """Check what the client has printed so far."""
        if more := self._out[self._read :]:
            raise Failed("the client prints each message of another member once, and nothing else", repr(more[:5]))

    def exits(self, code: int, expected: str) -> None:
        """Wait for the end of the client: it must not connect again, and must end with this code."""
        until = monotonic() + self.timeout
        while not self.ended:
            try:
                self.listener.accept(POLL, "", lambda: "", lambda: False).reset()
            except Failed:
                if monotonic() > until:
                    raise Failed(expected, f"it still runs after {self.timeout:g} seconds; {self.describe()}") from None
            else:
                raise Failed(expected, f"it connected again; {self.describe()}")
        for thread in self._threads:
            thread.join(self.timeout)
        if self._running.returncode != code:
            raise Failed(f"{expected}, with exit code {code}", self.describe())
        self.prints_nothing_else()

    def names(self, code: str) -> None:
        """Check that the client, which has ended, has written a code to its standard error."""
        if code not in self._err.decode(errors="replace"):
            raise Failed(f"the client writes `{code}` to its standard error", self.describe())

    @property
    def ended(self) -> bool:
        """Whether the client has ended."""
        return self._running.poll() is not None

    def describe(self) -> str:
        """Return the state of the client, and the end of what it wrote to its standard error."""
        code = self._running.poll()
        state = "the client runs" if code is None else f"the client has ended with exit code {code}"
        errors = self._err.decode(errors="replace").strip()
        return f"{state}; its standard error: {' / '.join(errors[-500:].splitlines())}" if errors else state

    # The client's connections

    def accept(self, expected: str = "the client connects") -> Peer:
        """Return the next connection; its handshake is read."""
        peer = self.listener.accept(self.timeout, expected, self.describe, lambda: self.ended)
        self._peers.append(peer)
        peer.read_handshake()
        return peer

    def join(self, seq: int = 0, *, limits: Frame | None = None) -> Peer:
        """Start the client, and let it into the room."""
        self.start()
        peer = self.accept()
        peer.welcome(seq, limits=limits)
        return peer

    def comes_back(
        self, seq: int, *, epoch: str = "one", session: str = "key-1", at: int | None = None, name: str = NAME
    ) -> Peer:
        """Accept the client's next connection, which must resume at this position; `at` is its `ts` if that differs."""
        peer = self.accept("the client connects again")
        wanted = {"epoch": epoch, "seq": seq, "ts": (ts(seq) if seq else 0) if at is None else at, "session": session}
        given = peer.handshake.get("resume")
        if not isinstance(given, dict):
            raise Failed("a handshake with `resume`", repr(peer.handshake))
        defaults: Frame = {"epoch": "", "seq": 0, "ts": 0, "session": ""}
        shown = {key: given.get(key, default) for key, default in defaults.items()}
        if shown != wanted:
            raise Failed(f"a handshake that resumes with {wanted}", repr(given))
        if (peer.handshake["name"], peer.handshake["room"]) != (name, ROOM):
            raise Failed(f"a handshake with the name {name!r} and the room {ROOM!r}", repr(peer.handshake))
        return peer

    def leaves(self, peer: Peer, code: int = 0) -> None:
        """End the client's input: it must send nothing more except a goodbye, and end with this exit code."""
        self.end_input()
        peer.until_end(only="bye")
        peer.close()
        self.exits(code, "the client ends when its input has ended and everything is answered")

    def gives_up(self, code: str) -> None:
        """The client must end by itself, name the code, and not connect again."""
        self.exits(1, f"the client ends because of `{code}`, and does not connect again")
        self.names(code)

    # Inside

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    def _read_output(self) -> None:
        assert self._running.stdout is not None
        for line in self._running.stdout:
            self._add(line.removesuffix(b"\n").removesuffix(b"\r").decode(errors="backslashreplace"))
        self._add(None)

    def _add(self, line: str | None) -> None:
        with self._changed:
            if line is None:
                self._out_ended = True
            else:
                self._out.append(line)
            self._changed.notify_all()

    def _read_errors(self) -> None:
        assert self._running.stderr is not None
        while data := self._running.stderr.read1(4096):  # type: ignore[attr-defined]
            self._err = (self._err + data)[-_KEPT_STDERR:]


Script = Callable[[Run], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One case: its name, what a client must do in one sentence, and the script that finds out."""

    name: str
    rule: str
    script: Script


def case(rule: str) -> Callable[[Script], Case]:
    """Make a case of a script; it has the script's name."""
    return lambda script: Case(script.__name__.replace("_", "-"), rule, script)


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]} … ({len(text):,} characters)"
