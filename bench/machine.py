"""The machine: its C compiler, cores and ports, and a description of it for readers of the figures."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent


class CannotMeasure(Exception):
    """This machine lacks something that every measurement needs; the text names it."""


@functools.cache
def scratch() -> Path:
    """Return a folder for compiled programs and the servers' files, which is deleted when the program ends."""
    folder = Path(tempfile.mkdtemp(prefix="machat-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def program(name: str) -> Path:
    """Compile one of the programs in C. Raises `CannotMeasure` if this is not Linux, or if there is no compiler."""
    if not sys.platform.startswith("linux"):
        raise CannotMeasure("the load generator needs Linux: it waits with epoll, and reads /proc")
    compiler = shutil.which("cc")
    if compiler is None:
        raise CannotMeasure("there is no C compiler `cc`, which the load generator needs: install gcc or clang")
    made = subprocess.run(
        [compiler, "-O2", "-o", scratch() / name, HERE / f"{name}.c"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise CannotMeasure(f"{compiler} could not compile bench/{name}.c: {made.stderr.strip()}")
    return scratch() / name


def raise_descriptor_limit() -> None:
    """Allow as many connections as the system does, here and in all programs that are started from here."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port() -> int:
    """Return a port of 127.0.0.1 at which no program listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_core() -> int | None:
    """Return the core for servers, or None if the machine has only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[-1] if len(cores) > 1 else None


def load_core() -> int | None:
    """Return the core for the load, or None if the machine has only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0] if len(cores) > 1 else None


@contextlib.contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Let processes that are started in the block run on that core: they inherit it from this thread."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def description() -> dict[str, str]:
    """Return what a reader of the figures must know."""
    server, load = server_core(), load_core()
    pinning = "one core, so server and load share it" if server is None else f"server on core {server}, load on {load}"
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "pinning": pinning,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": _commit(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"
    return commit.stdout.strip() + (" with changes" if changed.stdout else "")
