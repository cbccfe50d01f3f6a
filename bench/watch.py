"""What a server takes while it runs: processor time and memory, also the kernel's for sockets; all of it from /proc."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from . import machine
from .servers import Server

LOOK: Final = 0.1
"""Seconds between two looks."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pids: Iterable[int]) -> float:
    """Processor time of some processes, with all their threads."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)  # as clock_getcpuclockid(3) makes it


def resident(pids: Iterable[int]) -> int:
    """Bytes of memory that some processes have now."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE for pid in pids)


def highest(pids: Iterable[int]) -> int:
    """Bytes of memory that they had at their highest."""
    lines = (line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def tcp_memory() -> int:
    """Bytes that the kernel holds for TCP, of all programs on the machine."""
    (line,) = (line for line in Path("/proc/net/sockstat").read_text().splitlines() if line.startswith("TCP:"))
    return int(line.split()[-1]) * _PAGE


class Census:
    """A JSON member of a room of its own that asks how many are in another one."""

    def __init__(self, port: int, room: str) -> None:
        self._room = room
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        name = f"census{threading.get_ident()}"
        self._ask(json.dumps({"name": name, "room": name, "protocol": "json"}))

    def count(self) -> int:
        """How many are there now."""
        rooms = json.loads(self._ask('{"type":"rooms"}'))["rooms"]
        return next((int(room["count"]) for room in rooms if room["name"] == self._room), 0)

    def close(self) -> None:
        """Leave."""
        self._stream.close()
        self._socket.close()

    def _ask(self, frame: str) -> str:
        self._stream.write(f"{frame}\n")
        self._stream.flush()
        return self._stream.readline()


class Look(NamedTuple):
    """One look at a server."""

    at: float
    """By the monotonic clock."""
    cpu: float
    """Seconds of processor time until then."""
    resident: int
    tcp: int
    members: int
    """How many are in the room that is looked at."""

    def since(self, began: float) -> Look:
        """With the time from a beginning on."""
        return self._replace(at=self.at - began)


class Watch:
    """Looks at a server and at one of its rooms every so often, from a thread on the load's core."""

    def __init__(self, server: Server, room: str) -> None:
        self._server = server
        self._room = room
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.looks: list[Look] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        pids = self._server.pids
        census = Census(self._server.port, self._room)
        try:
            with machine.on_core(machine.load_core()):
                while not self._over.wait(LOOK):
                    members = census.count()
                    look = Look(time.monotonic(), cpu_seconds(pids), resident(pids), tcp_memory(), members)
                    self.looks.append(look)
        except (OSError, ValueError):
            pass  # the server has ended, as whoever uses it will find out
        finally:
            census.close()
