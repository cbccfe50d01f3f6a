"""Starting a server under test, and ending it, whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from . import machine
from .load import Figures, Load, LoadFailed, Protocol, run_load
from .subjects import Subject

_START_SECONDS = 20
_END_SECONDS = 5
_T = TypeVar("_T")


class ServerFailed(Exception):
    """The server did not start, or ended when it should not; the text says how."""


@dataclass
class Server:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    port: int
    protocol: Protocol
    folder: Path
    """Its files are here, and gone after it."""
    started: float = field(default=0)
    """Seconds from starting the process until it took a connection."""

    @property
    def pids(self) -> list[int]:
        """Its processes, as they are now: the one started and all below it."""
        return [self.process.pid, *_below(self.process.pid)]

    def run(self, load: Load) -> Figures:
        """Put a load on it. Raises `ServerFailed` where it did not outlive that, and `LoadFailed`."""
        try:
            return run_load(load, self.protocol, self.port, self.pids)
        finally:
            self.check()

    def check(self) -> None:
        """Raise `ServerFailed` if it has ended."""
        code = self.process.poll()
        if code is not None:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            raise ServerFailed(f"the server {how}{self._last_words()}")

    def _last_words(self) -> str:
        said = (self.folder / "stderr").read_text(errors="replace").splitlines()
        telling = [line.strip(" |") for line in said if re.search(r"\w", line)]  # not the frame around a traceback
        return f": {telling[-1][:200]}" if telling else ""


@contextlib.contextmanager
def running(subject: Subject, core: int | None = None) -> Iterator[Server]:
    """A server, on the servers' core or another; ended with everything it started on leaving. Raises `ServerFailed`."""
    port = machine.free_port()
    with tempfile.TemporaryDirectory(dir=machine.scratch()) as name:
        folder = Path(name)
        command = subject.prepare(port, folder)
        began = time.monotonic()
        with (folder / "stderr").open("wb") as said, machine.on_core(machine.server_core() if core is None else core):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=machine.ROOT,
                start_new_session=True,  # Ctrl-C is for us alone, who end what we started
            )
        server = Server(process, port, subject.protocol, folder)
        try:
            _wait_until_listening(server)
            server.started = time.monotonic() - began
            yield server
        finally:
            _end(process)


def _wait_until_listening(server: Server) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        server.check()
        try:
            socket.create_connection(("127.0.0.1", server.port), 0.5).close()
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
    """End what was started and is still there: where Ctrl-C came in the moment between starting it and minding it."""
    for pid in _below(os.getpid()):
        _kill_all_of(pid)


def _kill_all_of(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)  # each that we start leads a group of its own: itself, and what it started


def _below(pid: int) -> list[int]:
    children: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            children += [int(child) for child in file.read_text().split()]
    return children + [below for child in children for below in _below(child)]


@dataclass(frozen=True)
class Failure:
    """Why there are no figures."""

    reason: str


def attempt(subject: Subject, job: Callable[[Server], _T]) -> _T | Failure:
    """Start a subject, do something with it, end it. A server that fails is a result, not an error."""
    if reason := subject.missing():
        return Failure(reason)
    try:
        with running(subject) as server:
            try:
                return job(server)
            finally:
                server.check()
    except (ServerFailed, LoadFailed) as problem:
        return Failure(str(problem))
    except OSError as problem:
        return Failure(f"the server could not be started or reached: {problem}")


def measure(subject: Subject, load: Load) -> Figures | Failure:
    """Start a subject, put a load on it, end it."""
    return attempt(subject, lambda server: server.run(load))
