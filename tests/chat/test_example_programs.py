"""The programs in examples/ as people start them: help, wrong arguments, Ctrl-C, no server; and posts at one time."""

from __future__ import annotations

import importlib.util
import json
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from example_programs import EXAMPLES, HERE, PATIENCE, request, running
from serving import served

from chatapi import Bot, ChatAPI, Joined

needs_web = pytest.mark.skipif(
    not (importlib.util.find_spec("starlette") and importlib.util.find_spec("uvicorn")), reason="needs '.[examples]'"
)
PROGRAMS = ["bot", "bridge", "own_door", pytest.param("web_app", marks=needs_web)]


def ended(*command: str | Path) -> tuple[int, str, str]:
    """The exit code of a program, and what it wrote to both streams."""
    with running(*command) as process:
        out, errors = process.communicate()
        return process.returncode, out, errors


def test_every_example_is_in_the_table() -> None:
    names = {str(program.values[0]) if not isinstance(program, str) else program for program in PROGRAMS}
    assert names == {path.stem for path in EXAMPLES.glob("*.py")}


@pytest.fixture
def ended_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a program in this process, which ends while it reads its arguments: its exit code and both streams."""

    def run(program: str, *arguments: str) -> tuple[Any, str, str]:
        path = str(EXAMPLES / f"{program}.py")
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_shows_how_to_use_it(program: str, ended_here: Callable[..., Any]) -> None:
    code, out, errors = ended_here(program, "--help")
    assert (code, errors) == (0, "")
    assert out.startswith(f"usage: {program}.py [-h]")
    assert "HOST:PORT" in out


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["nonsense", "a", "b"], ["nonsense"], ["127.0.0.1:1"] * 4], ids=str
)
@pytest.mark.parametrize("program", PROGRAMS)
def test_wrong_arguments_are_named_and_end_it_with_code_2(
    program: str, arguments: list[str], ended_here: Callable[..., Any]
) -> None:
    code, out, errors = ended_here(program, *arguments)
    usage, error, *more = errors.splitlines()
    assert (code, out, more) == (2, "", [])
    assert usage.startswith(f"usage: {program}.py")
    assert error.startswith(f"{program}.py: error: ")


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.fixture
def taken() -> Iterator[str]:
    """An address where another program listens, which says nothing and closes."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.slow
def test_a_bridge_without_a_server_says_so_in_one_line(closed: str) -> None:
    code, out, errors = ended(EXAMPLES / "bridge.py", closed, "one", "two")
    assert (code, out) == (1, "")
    assert errors.startswith(f"bridge.py: cannot reach {closed}: ")
    assert errors.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("program", [program for program in PROGRAMS if program != "bridge"])
def test_an_address_that_is_in_use_is_named_in_one_line(program: str, taken: str) -> None:
    code, out, errors = ended(EXAMPLES / f"{program}.py", taken)
    assert (code, out) == (1, "")
    assert errors.startswith(f"{program}.py: cannot listen: ")
    assert taken in errors
    assert errors.count("\n") == 1


@pytest.mark.slow
@needs_web
def test_a_port_of_the_web_that_is_in_use_is_named_in_one_line(taken: str) -> None:
    port = taken.rpartition(":")[2]
    code, _, errors = ended(EXAMPLES / "web_app.py", "--port", port, HERE)
    assert code == 1
    assert errors.startswith("web_app.py: cannot listen: ")
    assert port in errors
    assert errors.count("\n") == 1


@needs_web
@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_what_is_no_port_is_named_and_ends_it_with_code_2(port: str, ended_here: Callable[..., Any]) -> None:
    code, _, errors = ended_here("web_app", "--port", port, HERE)
    assert code == 2
    assert errors.splitlines()[-1].startswith("web_app.py: error: ")
    assert port in errors.splitlines()[-1]


@pytest.mark.parametrize(
    "command",
    [
        ["bot.py", HERE],
        pytest.param(["web_app.py", "--port", "0", HERE], marks=[needs_web, pytest.mark.slow]),
    ],
    ids=["bot", "web_app"],
)
def test_ctrl_c_drains_a_server_and_ends_it_quietly(command: list[str]) -> None:
    with running(EXAMPLES / command[0], *command[1:]) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition("port=")[2].rstrip(")]\n"))
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock, sock.makefile("rwb") as stream:
            stream.write(b'{"name": "Mina", "room": "dev"}\n/list\n')
            stream.flush()
            assert stream.readline() == b"* in dev (1): Mina\n"
            process.send_signal(signal.SIGINT)
            assert stream.readline() == b"* draining: the server is shutting down\n"
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")


@asynccontextmanager
async def bridged() -> AsyncIterator[tuple[subprocess.Popen[str], Bot]]:
    """A bridge that runs between two rooms, and a member of the second one, which has seen it come in."""
    chat = ChatAPI()
    async with served(chat) as doors, chat.join("Zoe", "two") as zoe:
        with running(EXAMPLES / "bridge.py", str(doors["text"]), "one", "two") as process:
            assert isinstance(await anext(zoe), Joined)
            yield process, zoe


@pytest.mark.slow
@pytest.mark.anyio
async def test_ctrl_c_ends_a_bridge_quietly() -> None:
    async with bridged() as (process, _):
        process.send_signal(signal.SIGINT)
        assert await anyio.to_thread.run_sync(process.communicate) == ("", "")
        assert process.returncode == 0


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_bridge_that_is_removed_for_good_says_so_in_one_line() -> None:
    async with bridged() as (process, zoe):
        room = zoe.room
        assert room is not None
        bridge = room.member("bridge")
        assert bridge is not None
        bridge.disconnect("kicked", "no bridges here")
        _, errors = await anyio.to_thread.run_sync(process.communicate)
        assert (process.returncode, errors) == (1, "bridge.py: kicked: no bridges here\n")


@pytest.mark.slow
@needs_web
def test_ctrl_c_ends_the_web_application_under_uvicorn_too() -> None:
    command = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "--port", "0", "web_app:app"]
    with running(*command) as process:
        assert process.stderr is not None
        while "Uvicorn running" not in (line := process.stderr.readline()):
            assert line, "it has ended"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode in (0, 130, -signal.SIGINT)  # what uvicorn makes of it
        assert "Traceback" not in errors


# Posts at one time


@pytest.fixture
def web_app(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CHAT_ADDRESS", HERE)
    spec = importlib.util.spec_from_file_location("web_app", EXAMPLES / "web_app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_web
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("url", "names", "rooms"),
    [
        (lambda number: "/rooms/lounge", {"web"}, {"lounge"}),
        (lambda number: "/rooms/lounge?name=ci", {"ci"}, {"lounge"}),
        (lambda number: f"/rooms/lounge?name=ci{number % 4}", {"ci0", "ci1", "ci2", "ci3"}, {"lounge"}),
        (lambda number: f"/rooms/room{number % 3}", {"web"}, {"room0", "room1", "room2"}),
    ],
    ids=["no name", "one name", "several names", "several rooms"],
)
async def test_twelve_posts_at_one_time_are_all_said(
    web_app: Any, url: Callable[[int], str], names: set[str], rooms: set[str]
) -> None:
    statuses: list[int] = []

    async def post(number: int) -> None:
        status, _ = await request(web_app.app, "POST", url(number), f"post {number}".encode())
        statuses.append(status)

    with anyio.fail_after(PATIENCE):
        async with web_app.app.router.lifespan_context(web_app.app):
            async with anyio.create_task_group() as tasks:
                for number in range(12):
                    tasks.start_soon(post, number)
            assert statuses == [204] * 12
            said = []
            for room in rooms:
                _, body = await request(web_app.app, "GET", f"/rooms/{room}")
                said += json.loads(body)
            assert sorted(message["text"] for message in said) == sorted(f"post {number}" for number in range(12))
            assert {message["name"] for message in said} == names


@needs_web
@pytest.mark.anyio
async def test_a_name_that_somebody_else_has_is_refused(web_app: Any) -> None:
    with anyio.fail_after(PATIENCE):
        async with web_app.app.router.lifespan_context(web_app.app), web_app.chat.join("Mina", "lounge") as mina:
            status, body = await request(web_app.app, "POST", "/rooms/lounge?name=MINA", b"it is me")
            assert (status, body) == (409, b"name_taken: 'Mina' is already in 'lounge'\n")
            assert (await request(web_app.app, "POST", "/rooms/lounge", b"it is not"))[0] == 204
            assert mina.room is not None
            assert [message.name for message in mina.room.history(10)] == ["web"]
