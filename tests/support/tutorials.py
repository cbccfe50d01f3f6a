"""The player of the tutorials: does what a reader does, in an empty folder beside a clone."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from executables import Program, environment, eventually
from pages import ROOT, Page

SERVES = re.compile(r"chatserver -a |python (server|bot)\.py$|-m uvicorn ")
STAYS = re.compile(r"^nc |^\S*python \S*examplechatclient ")
"""A program that waits for what is typed."""


def is_like(expected: str, shown: str) -> bool:
    """Whether a line is what the page shows, in which … stands for anything."""
    return re.fullmatch(re.escape(expected).replace("…", ".+"), shown) is not None


class Tutorial:
    """Plays the blocks of one page in their order.

    A Python block with a title is saved, one without is run. In a block of `console` the lines after a command are what
    it shows. A new server takes the place of the one before, which is ended with Ctrl-C. With `installs`, the
    commands that make and fill a virtual environment are executed too; otherwise the test's own one takes their place.
    """

    def __init__(self, page: Page, folder: Path, ports: dict[str, int], *, installs: bool = False) -> None:
        self._page = page
        self._folder = folder
        self._ports = ports
        self._installs = installs
        self._server: Program | None = None

    def play(self) -> None:
        clone(self._folder / "machat", whole=self._installs)
        with ExitStack() as self._running:
            for block in self._page.blocks:
                body = self._with_ports(block.body)
                if block.language == "python" and block.title:
                    (self._folder / block.title).write_text(body, encoding="utf-8")
                elif block.language == "python":
                    (self._folder / "block.py").write_text(body, encoding="utf-8")
                    self._run(".venv/bin/python block.py", [])
                elif block.language == "console":
                    for command in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
                        line, *shown = command.splitlines()
                        self._types(line, shown)
            self._stop()

    def _with_ports(self, text: str) -> str:
        for port, ours in self._ports.items():
            text = text.replace(port, str(ours))
        return text.replace("examplechatclient ", f"examplechatclient -p {self._ports['8989']} ")

    def _types(self, command: str, shown: list[str]) -> None:
        if command.startswith("cd "):
            self._folder /= command.removeprefix("cd ")
        elif command == "python3 -m venv .venv" and not self._installs:
            programs(self._folder / ".venv" / "bin")
        elif SERVES.search(command):
            self._stop()
            self._server = self._start(command)
            for line in shown:
                eventually(lambda line=line: line in shows(self._server), lambda line=line: f"{line!r} is not shown")
        elif STAYS.match(command):
            self._start(command)
        else:
            self._run(command, shown)

    def _start(self, command: str) -> Program:
        everything = {"cwd": self._folder, "env": environment(PYTHONUNBUFFERED="1")}
        return self._running.enter_context(Program("bash", "-c", f"exec {command}", **everything))

    def _stop(self) -> None:
        """Press Ctrl-C in the terminal of the server."""
        if self._server is not None:
            self._server.signal(signal.SIGINT)
            assert self._server.wait() == 0
            self._server = None

    def _run(self, command: str, shown: list[str]) -> None:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self._folder, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        lines = done.stdout.splitlines()
        assert not shown or len(lines) == len(shown), f"{command}\n{done.stdout}"
        assert all(map(is_like, shown, lines)), f"{command}\n{done.stdout}"


def shows(program: Program) -> list[str]:
    return (program.out.decode() + program.err).splitlines()


def clone(folder: Path, *, whole: bool) -> None:
    """Make a folder with what a clone has: copies, or links to it."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name.startswith(".") or path.name in ("build", "dist", "site"):
            continue
        if not whole:
            (folder / path.name).symlink_to(path)
        elif path.is_dir():
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder)


def programs(folder: Path) -> None:
    """Make the programs of a virtual environment that has this Python, the library and its executables."""
    folder.mkdir(parents=True)
    commands = {
        "python": f"PYTHONPATH={ROOT} exec {sys.executable}",
        "pip": "exit 0 #",
        "chatserver": f"exec {sys.executable} {ROOT}/cmd/chatserver",
        "examplechatclient": f"exec {sys.executable} {ROOT}/cmd/examplechatclient",
    }
    for name, command in commands.items():
        (folder / name).write_text(f'#!/bin/sh\n{command} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
