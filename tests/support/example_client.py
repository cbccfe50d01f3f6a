"""The example client as a program, for the tests of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from executables import CLIENT, Program, Server


def client_of(
    server: Server,
    room: str,
    *flags: str,
    stdin: int | None = subprocess.PIPE,
    stdout: int | None = None,
    before: Callable[[], None] | None = None,
) -> Program:
    """The client, called Mina."""
    argv = (sys.executable, CLIENT, "-client", "Mina", "-room", room, "-address", server.address, *flags)
    return Program(*argv, stdin=stdin, stdout=stdout, before=before)
