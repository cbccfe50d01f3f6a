"""A disk that fails when it is told to, for a server that is started with it: see faults.c."""

from __future__ import annotations

import errno
import mmap
import shutil
import struct
import subprocess
import sys
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest
from executables import environment

SOURCE = Path(__file__).with_name("faults.c")


class File(IntFlag):
    """Which of a database's files."""

    DATABASE = 1
    WAL = 2
    SHM = 4
    ALL = 7


class Kind(IntFlag):
    """Which calls."""

    WRITE = 1
    SYNC = 2
    TRUNCATE = 4
    READ = 8
    CHANGES = 7


class Action(IntEnum):
    """The outcome of a call."""

    FAIL = 1
    HALF_THEN_FAIL = 2
    SHORT = 3
    DIE_BEFORE = 4
    DIE_HALFWAY = 5
    DIE_AFTER = 6


class FaultyDisk:
    """The file at `path`, with its ``-wal`` and ``-shm``, as a program sees them that runs in `environment`."""

    _WORDS = struct.Struct("9q")

    def __init__(self, path: Path, shim: Path) -> None:
        control = path.parent / "control"
        control.write_bytes(bytes(self._WORDS.size))
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), self._WORDS.size)
        self.environment: dict[str, str] = environment(
            LD_PRELOAD=str(shim), FAULTS_CONTROL=str(control), FAULTS_FILE=str(path.resolve())
        )

    def fail(
        self,
        action: Action = Action.FAIL,
        *,
        error: int = errno.ENOSPC,
        after: int = 0,
        times: int = -1,
        files: File = File.ALL,
        kinds: Kind = Kind.CHANGES,
    ) -> None:
        """Let `after` calls pass, then apply the action to the next `times` calls (-1: to all), until `heal`."""
        self.heal()
        self._map[:] = self._WORDS.pack(0, files, kinds, after, times, error, action, 0, 0)
        self._map[:8] = struct.pack("q", 1)

    def count(self, *, files: File = File.ALL, kinds: Kind = Kind.CHANGES) -> None:
        """Count the calls from now on, and let them pass."""
        self.fail(times=0, files=files, kinds=kinds)

    def heal(self) -> None:
        """Let all calls pass again."""
        self._map[:8] = bytes(8)

    @property
    def calls(self) -> int:
        """The number of calls since `fail` or `count`."""
        return int(self._WORDS.unpack(self._map)[7])

    @property
    def hits(self) -> int:
        """The number of calls that the action was applied to."""
        return int(self._WORDS.unpack(self._map)[8])


def build(folder: Path) -> Path:
    """Build the shim in this folder; skip the test if that is impossible, or if SQLite's calls do not reach it."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    if not sys.platform.startswith("linux"):
        pytest.skip("LD_PRELOAD and /proc are Linux's")
    shim = folder / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, SOURCE, "-ldl"], check=True)
    disk = FaultyDisk(folder / "probe.db", shim)
    disk.count()
    probe = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('CREATE TABLE t (x)')"
    subprocess.run([sys.executable, "-c", probe, folder / "probe.db"], env=disk.environment, check=True)
    if not disk.calls:
        pytest.skip("this Python's SQLite does not write through the C library")
    return shim
