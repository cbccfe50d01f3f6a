"""The samples in examples/clients pass the conformance run, and talk to each other through a real server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from executables import ROOT, Program, Server
from selection import slow_except

from chatapi.testing.conformance.__main__ import CASES, check

SAMPLES = ROOT / "examples" / "clients"
BY_NAME = {case.name: case for case in CASES}
TIMEOUT = 60.0


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


needs_nc = pytest.mark.skipif(
    shutil.which("nc") is None
    or "-N" not in subprocess.run(["nc", "-h"], capture_output=True, text=True, check=False).stderr,
    reason="the nc of OpenBSD is not installed",
)


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample in Go, compiled."""
    client = tmp_path_factory.mktemp("go") / "client"
    subprocess.run(["go", "build", "-o", client, SAMPLES / "client.go"], check=True)
    return client


@needs("node")
@pytest.mark.parametrize("name", slow_except(BY_NAME, "line-ends", "in-flight", "cut-replay"))
def test_the_sample_in_node_passes(name: str) -> None:
    failed = check(BY_NAME[name], ["node", str(SAMPLES / "client.mjs")], TIMEOUT)
    assert failed is None, failed


@needs("go")
@pytest.mark.slow
@pytest.mark.parametrize("name", BY_NAME)
def test_the_sample_in_go_passes(name: str, go_client: Path) -> None:
    failed = check(BY_NAME[name], [str(go_client)], TIMEOUT)
    assert failed is None, failed


@needs("gofmt")
@pytest.mark.slow
def test_the_sample_in_go_is_formatted() -> None:
    done = subprocess.run(["gofmt", "-l", SAMPLES], capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as server:
        yield server


@needs_nc
def test_the_sample_in_the_shell_sends_lines_and_prints_them(server: Server, room: str) -> None:
    zoe = server.member("Zoe", room)
    name = 'Mi"na\\'
    with Program("bash", SAMPLES / "client.sh", server.address, name, room) as mina:
        mina.type("hello\n")
        assert zoe.line() == f"{name}:hello"
        zoe.send("hi\n")
        mina.prints(b"Zoe:hi\n")
        mina.type("last words")
        mina.end_input()
        assert mina.wait() == 0
    assert zoe.line() == f"{name}:last words"


@needs("node")
@needs_nc
def test_the_samples_in_node_and_the_shell_talk_to_each_other(server: Server, room: str) -> None:
    with (
        Program("node", SAMPLES / "client.mjs", server.address, "Mina", room) as mina,
        Program("bash", SAMPLES / "client.sh", server.address, "Zoe", room) as zoe,
    ):
        for member in ("Mina", "Zoe"):
            server.says(f"{member} joined {room}")
        mina.type("hello\n")
        zoe.prints(b"Mina:hello\n")
        zoe.type("hi\n")
        mina.prints(b"Zoe:hi\n")
        for member in (mina, zoe):
            member.end_input()
            assert member.wait() == 0


@pytest.mark.slow
@pytest.mark.parametrize("language", [pytest.param("node", marks=needs("node")), pytest.param("go", marks=needs("go"))])
def test_a_sample_goes_on_over_a_restart_of_a_server_with_a_store(
    language: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command = ["node", SAMPLES / "client.mjs"] if language == "node" else [request.getfixturevalue("go_client")]
    store = ("-store", str(tmp_path / "chat.db"))
    with ExitStack() as programs:
        with Server(*store) as first:
            address = first.address
            mina = programs.enter_context(Program(*command, address, "Mina", "dev"))
            first.says("Mina joined dev")
            first.member("Zoe", "dev").send("one\n")
            mina.prints(b"Zoe:one\n")
        second = programs.enter_context(Server(*store, address=address))
        second.says("Mina joined dev")
        zoe = second.member("Zoe", "dev")
        zoe.send("two\n")
        mina.prints(b"Zoe:two\n")
        mina.type("three\n")
        assert zoe.line() == "Mina:three"
        mina.end_input()
        assert mina.wait() == 0
        assert mina.out == b"Zoe:one\nZoe:two\n"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["node", "client.mjs"], marks=needs("node"), id="node"),
        pytest.param(["bash", "client.sh"], id="shell"),
    ],
)
def test_a_sample_without_arguments_shows_how_to_use_it(command: list[str]) -> None:
    done = subprocess.run(command, cwd=SAMPLES, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"usage: {command[1]} HOST:PORT NAME ROOM\n"
