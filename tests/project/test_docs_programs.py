"""The programs and command lines in the documentation, run as they are shown."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from pages import BLOCKS, ROOT, Block, blocks
from redis_servers import RedisServer, needs_redis

import chatapi
from chatapi.brokers.sqlite import SQLiteBroker
from chatapi.cli import store

TUTORIALS = [block for block in blocks("python") if "/tutorials/" in block.page]  # run by their own test
PYTHON = [block for block in blocks("python") if block not in TUTORIALS]
CLIENTS = [block for block in PYTHON if '"localhost:8989", name=' in block.body]
SERVERS = [block for block in PYTHON if ":8989" in block.body and block not in CLIENTS]
WITH_REDIS = [block for block in PYTHON if "redis://localhost:6379/0" in block.body]
PROGRAMS = [block for block in PYTHON if block not in SERVERS + CLIENTS + WITH_REDIS]


def run(block: Block, *changes: tuple[str, str]) -> None:
    """Run a program in this process; a traceback has the page's own line numbers."""
    source = "\n" * block.line + block.body
    for before, after in changes:
        source = source.replace(before, after)
    exec(compile(source, ROOT / block.page, "exec"), {"__name__": "__main__"})


@pytest.fixture
def _chatapi_logs_as_before() -> Iterator[None]:
    logger = logging.getLogger("chatapi")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("_chatapi_logs_as_before")
@pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
@pytest.mark.parametrize("block", PROGRAMS, ids=str)
def test_programs(block: Block, backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(anyio, "run", functools.partial(anyio.run, backend=backend))
    run(block)


@needs_redis
@pytest.mark.slow
@pytest.mark.parametrize("block", WITH_REDIS, ids=str)
def test_programs_with_redis(block: Block) -> None:
    with RedisServer() as redis:
        run(block, ("redis://localhost:6379/0", redis.url))
        assert redis.cli("XLEN", "machat:{dev}:log") == 1


@pytest.mark.parametrize("block", CLIENTS, ids=str)
def test_clients(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    with start_blocking_portal() as portal:
        chat = chatapi.ChatAPI()
        _, [(_, address)] = portal.start_task(chat.serve, "127.0.0.1:0")
        run(block, ("localhost:8989", str(address)))
        portal.call(chat.drain)
    [room] = chat.rooms
    assert capsys.readouterr().out == f"{room.seq}\n" == "1\n"


RUN = """
import anyio, functools, runpy, sys
anyio.run = functools.partial(anyio.run, backend=sys.argv[1])
runpy.run_path(sys.argv[2], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("block", "backend"),
    [
        pytest.param(block, backend, id=f"{block}-{backend}", marks=[] if block == SERVERS[0] else pytest.mark.slow)
        for block in SERVERS
        for backend in ("asyncio", "trio")
        if backend == "asyncio" or "run_tcp" not in block.body  # which always runs on asyncio
    ],
)
def test_servers(block: Block, backend: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(re.sub(r"localhost:\d+", "localhost:0", block.body), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-u", "-W", "error", "-c", RUN, backend, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        watchdog = threading.Timer(60, process.kill)
        watchdog.start()
        try:
            assert process.stdout is not None
            port = re.search(r"port=(\d+)", process.stdout.readline())
            assert port is not None
            with socket.create_connection(("localhost", int(port[1])), 30) as sock, sock.makefile("rwb") as stream:
                stream.write(b'{"name": "Zoe", "room": "dev", "echo": true}\nhello\n')
                stream.flush()
                assert stream.readline() == b"Zoe:hello\n"
                if "parrot" in block.body:
                    assert stream.readline() == b"parrot:Zoe said hello\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait() == (0 if "run_tcp" in block.body else -signal.SIGTERM)
        finally:
            watchdog.cancel()
            process.kill()


# The sub-commands of the store


async def chat_about_a_password() -> None:
    chat = chatapi.ChatAPI(broker=SQLiteBroker("chat.db"))
    async with chat, chat.join("Mina", "dev", reads=False) as mina, chat.join("Zoe", "dev", reads=False) as zoe:
        await mina.post("hello")
        await mina.post("my password is sesame")
        await zoe.post("two\nlines")
        await chat.delete("dev", 2, "moderator")


@pytest.mark.slow
def test_the_sub_commands_work_as_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(chat_about_a_password)
    [block] = blocks("console", "$ chatserver rooms chat.db\n")
    here = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'cmd' / 'chatserver'))}"
    for line in block.body.splitlines():
        command = re.sub(r"\bchatserver\b", lambda _: here, line.removeprefix("$ "))
        assert subprocess.run(command, shell=True, check=False).returncode == 0, line
    told = capfdbinary.readouterr()
    assert told.err == b""
    assert told.out.splitlines()[-1] == b"ok: 2 rooms, 6 messages"


def test_an_export_looks_as_it_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(chat_about_a_password)
    [block] = blocks("json", '{"type":"room"')
    Path("shown.ndjson").write_text(block.body, encoding="utf-8")
    assert store.main(["import", "shown.db", "dev", "shown.ndjson"]) == 0
    assert store.main(["export", "shown.db", "dev", "again.ndjson"]) == 0
    assert Path("again.ndjson").read_text(encoding="utf-8") == block.body
    assert store.main(["export", "chat.db", "dev", "real.ndjson"]) == 0

    def without_times(text: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in text.splitlines()]
        return [{key: value for key, value in line.items() if key not in ("ts", "epoch")} for line in lines]

    assert without_times(Path("real.ndjson").read_text(encoding="utf-8")) == without_times(block.body)


def test_every_block_has_a_language_and_there_are_examples() -> None:
    assert {block.language for block in BLOCKS} == {"chat", "console", "ini", "json", "python", "text"}
    assert len(blocks("chat")) >= 10
    assert len(SERVERS) >= 2
    assert CLIENTS
    assert WITH_REDIS
    assert len(PROGRAMS) >= 15
