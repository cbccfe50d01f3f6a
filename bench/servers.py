"""Start a server, put a load on it, and end it, whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import machine
from .load import Figures, Load, LoadFailed, Protocol, run_load
from .results import Failure
from .subjects import Subject

_START_SECONDS = 20
_END_SECONDS = 5


class ServerFailed(Exception):
    """The server did not start, or ended when it should not; the text says how."""


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    ports: list[int]
    protocol: Protocol
    folder: Path
    """The folder of its files, which is deleted when the server has ended."""

    @property
    def pids(self) -> list[int]:
        """Return its processes: the one that was started and all below it."""
        return [self.process.pid, *_below(self.process.pid)]

    def run(self, load: Load) -> Figures:
        """Put a load on it. Raises `ServerFailed` if it ended meanwhile, and `LoadFailed`."""
        try:
            return run_load(load, self.protocol, self.ports, self.pids)
        finally:
            self.check()

    def check(self) -> None:
        """Raise `ServerFailed` if it has ended."""
        code = self.process.poll()
        if code is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise ServerFailed(f"the server {how}{self._last_words()}")

    def _last_words(self) -> str:
        lines = (self.folder / "stderr").read_text(errors="replace").splitlines()
        words = [line.strip(" |") for line in lines if re.search(r"\w", line)]  # not the frame around a traceback
        return f": {words[-1][:200]}" if words else ""


@contextlib.contextmanager
def running(subject: Subject) -> Iterator[Server]:
    """Run a server on the servers' core; end it and everything that it has started. Raises `ServerFailed`."""
    ports = [machine.free_port() for _ in range(subject.ports)]
    with tempfile.TemporaryDirectory(dir=machine.scratch()) as name:
        folder = Path(name)
        command = subject.prepare(ports, folder)
        with (folder / "stderr").open("wb") as said, machine.on_core(machine.server_core()):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=machine.ROOT,
                start_new_session=True,  # Ctrl-C interrupts this program alone, which ends what it started
            )
        server = Server(process, ports, subject.protocol, folder)
        try:
            for port in ports:
                _wait_until_listening(server, port)
            yield server
        finally:
            _end(process)


def _wait_until_listening(server: Server, port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        server.check()
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return
        except OSError:
            time.sleep(0.005)
    raise ServerFailed(f"the server did not listen within {_START_SECONDS} s{server._last_words()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        if process.poll() is None:
            process.terminate()
            process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _kill_all_of(process.pid)
        process.wait()


def end_what_is_left() -> None:
    """End all processes that are left: Ctrl-C may have come just after one was started."""
    for pid in _below(os.getpid()):
        _kill_all_of(pid)


def _kill_all_of(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # each process that this program starts leads a group of its own


def _below(pid: int) -> list[int]:
    children: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            children += [int(child) for child in file.read_text().split()]
    return children + [below for child in children for below in _below(child)]


def measure(subject: Subject, load: Load) -> Figures | Failure:
    """Start a server, put a load on it, end it. If the server fails, that is a result and not an error."""
    if reason := subject.missing():
        return Failure(reason)
    try:
        with running(subject) as server:
            return server.run(load)
    except (ServerFailed, LoadFailed) as problem:
        return Failure(str(problem))
    except OSError as problem:
        return Failure(f"the server could not be started or reached: {problem}")
