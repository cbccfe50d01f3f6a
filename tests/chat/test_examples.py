"""The programs in examples/ do what they say."""

from __future__ import annotations

import importlib.util
import json
import re
import signal
import socket
from pathlib import Path

import anyio
import pytest
from example_programs import EXAMPLES, request, running
from serving import served

from chatapi import ChatAPI, Message


def test_every_example_is_short_and_has_a_test() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 100, path.name
        assert f"def test_{path.stem}_" in tests


def test_bot_rolls_dice_for_all_and_for_one() -> None:
    with running(EXAMPLES / "bot.py", "127.0.0.1:0") as process:
        assert process.stdout is not None
        port = re.search(r"port=(\d+)", process.stdout.readline())
        assert port is not None
        with socket.create_connection(("127.0.0.1", int(port[1])), 30) as sock, sock.makefile("rwb") as stream:
            stream.write(b'{"name": "Mina", "room": "lounge"}\nhello\n!roll 3\n@dice !roll\n')
            stream.flush()
            assert re.fullmatch(rb"dice:Mina rolls [1-6] [1-6] [1-6]\n", stream.readline())
            assert re.fullmatch(rb"\* dice whispers: [1-6]\n", stream.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_own_door_takes_commands_from_clients_beside_the_usual_ones() -> None:
    with running(EXAMPLES / "own_door.py", "127.0.0.1:0", "127.0.0.1:0") as process:
        assert process.stdout is not None
        usual, own = re.findall(r"port=(\d+)", process.stdout.readline())
        with (
            socket.create_connection(("127.0.0.1", int(usual)), 30) as one,
            socket.create_connection(("127.0.0.1", int(own)), 30) as two,
            one.makefile("rwb") as mina,
            two.makefile("rwb") as zoe,
        ):
            mina.write(b'{"name": "Mina", "room": "lounge"}\n/list\n')
            mina.flush()
            assert mina.readline() == b"* in lounge (1): Mina\n"
            zoe.write(b"LOGIN Zoe lounge\nWHO\nSAY hello\n")
            zoe.flush()
            assert zoe.readline() == b"* Mina Zoe\r\n"
            assert mina.readline() == b"Zoe:hello\n"
            zoe.write(b"QUIT\n")
            zoe.flush()
            assert zoe.read() == b"* goodbye\r\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0


@pytest.mark.anyio
async def test_bridge_passes_messages_both_ways() -> None:
    chat = ChatAPI()
    async with served(chat) as doors, chat.join("Mina", "one") as mina, chat.join("Zoe", "two") as zoe:
        with running(EXAMPLES / "bridge.py", str(doors["text"]), "one", "two") as process, anyio.fail_after(60):
            for bot in (mina, zoe):
                assert (await anext(bot)).name == "bridge"  # it has joined
            await mina.post("hello\nthere")
            told = await anext(zoe)
            assert isinstance(told, Message)
            assert (told.name, told.text) == ("bridge", "Mina: hello\nthere")
            await zoe.post("hi")
            told = await anext(mina)
            assert isinstance(told, Message)
            assert (told.name, told.text) == ("bridge", "Zoe: hi")
            await mina.post("x" * chat.limits.line_bytes)  # with a name before it, it is too long
            await mina.post("still there")
            told = await anext(zoe)
            assert isinstance(told, Message)
            assert told.text == "Mina: still there"
            process.send_signal(signal.SIGINT)
            _, errors = await anyio.to_thread.run_sync(process.communicate)
            assert process.returncode == 0
            assert errors.startswith("not passed to 'two': ")
            assert errors.count("\n") == 1


@pytest.mark.anyio
async def test_web_app_serves_chat_and_web(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    monkeypatch.setenv("CHAT_ADDRESS", "127.0.0.1:0")
    spec = importlib.util.spec_from_file_location("web_app", EXAMPLES / "web_app.py")
    assert spec is not None
    assert spec.loader is not None
    web_app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(web_app)
    app, chat = web_app.app, web_app.chat
    with anyio.fail_after(60):
        async with app.router.lifespan_context(app):
            [(_, address)] = chat.listening
            async with await anyio.connect_tcp(*address) as mina:
                await mina.send(b'{"name": "Mina", "room": "lounge", "echo": true}\nhello\n')
                assert await mina.receive() == b"Mina:hello\n"
                assert await request(app, "GET", "/rooms") == (200, b'{"lounge":1}')
                assert await request(app, "POST", "/rooms/lounge", b"all green") == (204, b"")
                assert await mina.receive() == b"web:all green\n"
                status, body = await request(app, "GET", "/rooms/lounge")
                assert (status, [message["text"] for message in json.loads(body)]) == (200, ["hello", "all green"])
                assert (await request(app, "POST", "/rooms/lounge", b"x" * 10_000))[0] == 409
                assert (await request(app, "GET", "/rooms/none"))[1] == b"[]"
        assert chat.listening == []
