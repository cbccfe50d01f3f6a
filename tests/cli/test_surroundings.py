"""What the executables are started from: a background job, a service manager, a bare environment, closed streams."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from executables import CLIENT, ROOT, SERVER, Program, Server, handshake, hears_next, run

pytestmark = pytest.mark.slow

if sys.platform == "win32":
    pytest.skip("these tests start the executables the POSIX way", allow_module_level=True)

BARE = {
    "PATH": os.defpath,
    "LC_ALL": "C",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONUTF8": "0",
    "TZ": "Pacific/Kiritimati",
}
"""No HOME, no TERM, and ASCII instead of UTF-8: Python would choose UTF-8 by itself for this locale."""


def ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def closed(*descriptors: int) -> Callable[[], None]:
    def close() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    return close


def _talks(server: Server) -> None:
    mina, zoe = server.member("Mina", "hall"), server.member("Zoe", "hall")
    hears_next(zoe, mina, "Mina")
    hears_next(mina, zoe, "Zoe")


def test_ctrl_c_ends_a_program_although_these_tests_run_in_the_background() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Server() as server:
            server.stop(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_server_in_the_background_is_not_ended_by_ctrl_c_but_by_sigterm() -> None:
    with Server(before=ignore_ctrl_c) as server:
        for _ in range(2):
            server.signal(signal.SIGINT)
        _talks(server)
        server.stop(signal.SIGTERM)


def test_a_server_runs_in_a_bare_environment() -> None:
    with Server(env=BARE) as server:
        mina = server.connect()
        mina.send(handshake("Zoë", "hall", echo=True) + "grüße\n".encode())
        assert mina.line() == "Zoë:grüße"
        server.says("Zo\\xeb joined hall")


@pytest.mark.parametrize("script", [SERVER, CLIENT])
def test_help_is_shown_in_a_bare_environment(script: str) -> None:
    with Program(sys.executable, script, "-h", env=BARE) as program:
        assert program.wait() == 0
        assert program.out.startswith(b"usage: ")


def test_a_server_needs_no_standard_input() -> None:
    with Server(before=closed(0)) as server:
        _talks(server)


def test_a_dash_is_the_standard_output_of_an_export_and_no_file(tmp_path: Path) -> None:
    chat = tmp_path / "chat.db"
    with Program(sys.executable, SERVER, "import", chat, "dev") as program:
        program.type('{"name": "Mina", "text": "hello"}\n')
        program.end_input()
        assert program.wait() == 0, program.err
    there = set(tmp_path.iterdir())
    code, out, _ = run(sys.executable, ROOT / SERVER, "export", chat, "dev", "-", cwd=tmp_path)
    assert code == 0
    assert '"text":"hello"' in out
    assert set(tmp_path.iterdir()) == there


def test_a_client_without_standard_input_ends_like_one_whose_input_is_empty() -> None:
    with Server() as server:
        arguments = (CLIENT, "-address", server.address, "-client", "Mina", "-room", "hall")
        with Program(sys.executable, *arguments, before=closed(0)) as client:
            assert client.wait() == 0, client.err
